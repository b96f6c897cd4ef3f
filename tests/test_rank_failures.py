"""Ranks that are killed, signalled, raise or are asked for what they cannot do: a clear word, and never a hang."""

import contextlib
import os
import random
import re
import signal
import subprocess
import time

import pytest
import torch

from tests.rank_processes import command, run_jobs, run_ranks, torchrun
from tests.resume_jobs import equal


def run_killed(folder, signals, seed=0, restarts=20):
    """The job ``killed`` on two ranks, of which a random one gets each signal, a random while after it has begun."""
    rng = random.Random(seed)
    folder.mkdir(exist_ok=True)
    arguments = command(
        *("-m", "tests.rank_jobs", "killed", folder),
        options=[f"--max-restarts={restarts}", "--monitor-interval=0.05"],
        RANK_RUN=folder,
        SECONDS_A_BATCH=0.03,
    )
    with (folder / "output").open("w") as output:
        torchrun = subprocess.Popen(**arguments, stdout=output, stderr=output)
        for number in signals:
            pids = wait_for_ranks(folder, torchrun)
            if pids is None:
                break
            time.sleep(0.6 * rng.random())  # the job takes a second and more
            with contextlib.suppress(ProcessLookupError):  # it is done by now
                os.kill(rng.choice(pids), number)
        torchrun.wait(timeout=300)
    text = (folder / "output").read_text()
    assert torchrun.returncode == 0, text[-5000:]
    ends = [torch.load(folder / f"rank-{rank}.pt", weights_only=False)["killed"] for rank in range(2)]
    for end in ends:
        del end["reason"]  # ranks that were killed after the last save come back to say that the run is finished
    return ends, text


def wait_for_ranks(folder, torchrun):
    """The process ids of two ranks that have begun their fit anew; None if the run is over first."""
    while torchrun.poll() is None:
        begun = [folder / f"started-{rank}" for rank in range(2)]
        if all(path.exists() and path.read_text() for path in begun):
            pids = [int(path.read_text()) for path in begun]
            for path in begun:
                path.unlink()
            return pids
        time.sleep(0.01)
    return None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The end of the job, which nobody disturbs."""
    return run_killed(tmp_path_factory.mktemp("whole") / "run", [])[0]


def test_run_on_ranks_when_killed_at_random_moments_then_restarts_and_ends_with_the_same_bits(whole, tmp_path, soak):
    ends, text = run_killed(tmp_path / "killed", [signal.SIGKILL] * (20 if soak else 5), seed=1)
    assert text.count("(exitcode: -9)") >= (15 if soak else 3)  # the others came when a run was over
    assert equal(ends, whole)


def test_run_on_ranks_when_one_is_signalled_then_all_save_and_go_on_with_the_same_bits(whole, tmp_path):
    ends, text = run_killed(tmp_path / "signalled", [signal.SIGTERM, signal.SIGUSR1], seed=2)
    assert text.count("can be resumed") >= 1
    assert "(exitcode: 75)" in text
    assert equal(ends, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["terminated", "Ctrl-C"])
def test_torchrun_when_signalled_then_a_whole_checkpoint_is_left_and_it_can_be_gone_on_with(
    number, whole, tmp_path, soak
):
    if number == signal.SIGINT and not soak:
        pytest.skip("torchrun passes both on in the same way; runs with --soak")
    folder = tmp_path / "run"
    folder.mkdir()
    arguments = command(*("-m", "tests.rank_jobs", "killed", folder), RANK_RUN=folder, SECONDS_A_BATCH=0.05)
    with (folder / "output").open("w") as output:
        launcher = subprocess.Popen(**arguments, stdout=output, stderr=output, start_new_session=True)
        pids = wait_for_ranks(folder, launcher)
        time.sleep(0.5)
        if number == signal.SIGINT:  # a terminal sends it to all processes
            for pid in pids:
                os.kill(pid, number)
        launcher.send_signal(number)
        begun = time.monotonic()
        assert launcher.wait(timeout=60) != 0
    assert time.monotonic() - begun < 30
    text = (folder / "output").read_text()
    assert "can be resumed" in text, text
    assert not list((folder / "checkpoints").glob(".*")), "no half-written file"
    ends, _ = run_killed(folder, [])
    assert equal(ends, whole)


def test_ranks_when_one_raises_then_all_end_and_its_traceback_comes_first_and_once(tmp_path):
    begun = time.monotonic()
    run = torchrun("-m", "tests.rank_jobs", "breaks", tmp_path, n_ranks=3, RANK_RUN=tmp_path)
    assert run.returncode == 1
    assert time.monotonic() - begun < 90  # of which the start takes most, on a machine that has more to do
    text = run.stderr
    assert text.index("RuntimeError: rank 1 has had enough") < text.index("FAILED")
    assert text.index("rank_jobs.py") < text.index("rank 1 has had enough")  # its traceback
    assert text.count("RuntimeError: rank 1 has had enough") == 1
    if hasattr(Exception, "add_note"):  # Python 3.11
        assert "raised by Raise.after_loss: training, epoch 1, batch 2" in text
    assert text.count("Traceback") == 2  # the rank's and torchrun's own; who finds it gone says so in one line
    assert (tmp_path / "crash-rank1.pt").exists()
    assert not (tmp_path / "crash.pt").exists()
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*.pt")] != []


REFUSED = {
    "model": "TypeError: .*got a DistributedDataParallel: give the plain module, model.module",
    "step": "TypeError: .*got a step of one's own: give a TrainStep, or train in one process",
    "metric": "TypeError: .*'roc', Ignite's EpochMetric, gathers batches .* compute it from learn.predict",
    "train": "TypeError: on 2 ranks the loader for training is one that .*; got a DataLoader: .*DistributedSampler",
    "valid": "TypeError: on 2 ranks the loader for evaluation is one that .*; got a DataLoader: take DataLoaders",
    "evaluate": "TypeError: on 2 ranks the loader for evaluation is one that .*; got a DataLoader: take DataLoaders",
    "predict": "TypeError: on 2 ranks the loader for evaluation is one that .*; got a list: take DataLoaders",
    "sampler": "ValueError: a DistributedSampler .*; got one for rank 1 of 7 on rank . of 2: leave num_replicas and",
    "sparse": "TypeError: gradients .* dense tensors; got a sparse one: make the layer with sparse=False",
    "epochs": "ValueError: all ranks run the same job; rank 1 has n_epochs 2, rank 0 1",
    "data": "ValueError: all ranks run the same job; rank 1 has training loader .*'n_samples': 9.*'n_samples': 8",
    "rows": "ValueError: .* in the order of the samples; got 1 rows for 4 samples on rank 0: predict in one process",
    "other loader": "ValueError: ranks share one loader; rank 1 has one of .*'n_samples': 9, .*: 8.*: give all of them",
    "doubled": "TypeError: .*'roc', Ignite's EpochMetric, gathers batches .* compute it from learn.predict",
    "own metric": r"ValueError: a metric's compute\(\) adds up .*; 'own' is . on rank . and . on rank .: give a f",
    "resume": "FileNotFoundError: .*there is none at /nothing/there.pt",
    "callbacks": "ValueError: all ranks run the same job; rank 1 has callbacks of this package , rank 0 Checkpoint",
    "accumulate": "ValueError: all ranks run the same job; rank 1 has accumulate 2, rank 0 1: start them with",
    "metrics": "ValueError: all ranks run the same job; rank 1 has metrics a, rank 0 : start them with",
    "resumes": "ValueError: all ranks run the same job; rank 1 has resume False, rank 0 True: start them with",
    "frozen": "ValueError: all ranks run the same job; rank 1 has frozen parameters 0.weight, .*, rank 0 : start",
    "seconds": "ValueError: all ranks .*; rank 1 has questions between ranks signal, seconds of .*, rank 0 signal: ",
    "extra": "ValueError: ranks begin with rank 0's parameters and buffers; _extra_state is an extra state",
    "rates": "RuntimeError: all ranks .* of group 0 is 0.0015625 on rank 1 and 0.00078125 on rank 0: change them in",
    "groups": "RuntimeError: all ranks .*; the optimizer of rank 1 has 1 groups of parameters, that of rank 0 2: ch",
    "few": "ValueError: .*; 1 of 2 have none here, for the metric 'a': take a larger batch_size or fewer ranks",
    "lists": "ValueError: .*; 1 of 2 have none here, for the metric 'a': take a larger batch_size or fewer ranks",
    "place": "RuntimeError: rows in order",
}


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_ranks_when_one_makes_a_call_alone_then_all_are_told_where_each_is_and_the_next_fit_goes_well(
    n_ranks, tmp_path
):
    jobs = run_jobs(["alone"], tmp_path, n_ranks)
    (texts, weights), *others = (ranks["alone"] for ranks in jobs)
    assert len(texts) == 12
    for name, text in texts.items():
        assert text.startswith("all ranks make the same calls in the same order; here came rank"), name
        assert text.count(" of rank_jobs.py, ") == 2, name
        assert text.endswith("in after_step, after_epoch or after_validate, to which all ranks come"), name
    assert "(ignite_trainer." in texts["save or fit"], "at the same line of the user's"
    assert "; here came rank 0 at line " in texts["after_epoch"]
    assert {2: "; rank 1 at line ", 3: "; ranks 1, 2 at line "}[n_ranks] in texts["after_epoch"]
    assert all(equal(other, (texts, weights)) for other in others)


def test_ranks_when_a_callback_evaluates_where_one_has_no_sample_then_all_end_and_are_told_where(tmp_path):
    run = torchrun("-m", "tests.rank_jobs", "evaluates_where_a_rank_is_not", tmp_path, RANK_RUN=tmp_path)
    assert run.returncode == 1
    assert "RuntimeError: all ranks make the same calls in the same order; here came rank 0 at line" in run.stderr


def test_ranks_when_one_evaluates_and_the_other_has_ended_then_it_ends_and_says_so(tmp_path):
    run = torchrun("-m", "tests.rank_jobs", "ends_alone", tmp_path)
    assert run.returncode == 1
    assert "rank 0 ends, as another rank is gone; that one's error tells why" in run.stderr


def test_ranks_when_asked_for_what_they_cannot_do_then_each_says_why_and_the_next_fit_goes_well(tmp_path):
    for ranks in run_jobs(["refusals"], tmp_path, 2):
        texts = ranks["refusals"]
        assert texts.keys() == REFUSED.keys()
        for name, pattern in REFUSED.items():
            assert re.match(pattern, texts[name]), texts[name]


def test_ranks_when_their_weights_come_apart_then_rank_0_warns_once_a_fit(tmp_path):
    (cut, whole, failed), (*others, failed_too) = (ranks["apart"] for ranks in run_jobs(["apart"], tmp_path, 2))
    text = (
        "of this epoch those of rank 1 differ from rank 0's, first in 0.weight, and rank 0's are what is saved: change"
    )
    assert [text in warning for warning in cut] == [True]
    assert whole == []
    assert others == [[], []]
    assert failed.startswith("UserWarning: all ranks hold the same weights")
    assert failed_too.startswith("RuntimeError: what rank 0 does for all has failed there: all ranks hold the same")


def test_command_on_ranks_when_a_rank_would_have_a_batch_of_one_then_all_say_so_and_end(tmp_path):
    words = "train --data tests.cli_jobs:two_more --model tests.cli_jobs:Net --batch-size 20 --device cpu --folder"
    codes, output = run_ranks("ignite_trainer", *words.split(), tmp_path / "run", folder=tmp_path)
    assert codes == [2, 2], output
    assert "62 samples in batches of 20 on 2 ranks make a batch of 1, on which --model tests.cli_jobs:Net" in output
    assert not (tmp_path / "run").exists()
