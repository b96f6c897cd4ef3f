"""Ranks as torchrun starts them: two real processes run a small program."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ignite_trainer import call_places, collectives, distributed

ROOT = Path(__file__).parents[1]


def torchrun(program, folder, *, n_ranks=2):
    """Runs a program on ranks; a rank's prints are in the output, each line after its rank."""
    (folder / "program.py").write_text(program)
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_ranks}"),
            str(folder / "program.py"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )


START = """
import atexit, gc, os, sys, time, torch
import torch.distributed as dist
import ignite.distributed as idist
from ignite_trainer.collectives import barrier, sum_float64
from ignite_trainer.distributed import finalize, initialize, is_main, rank, world_size
"""


def test_without_torchrun_there_is_one_rank_and_nothing_to_tell():
    assert not distributed.initialize()
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    tensor = torch.ones(2, requires_grad=True)
    assert collectives.sum_float64(tensor) is tensor
    collectives.barrier()
    distributed.finalize()


@pytest.mark.parametrize("world_size", ["1", None])
def test_initialize_when_torchrun_started_one_process_makes_no_group(world_size, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world_size is not None:
        monkeypatch.setenv("WORLD_SIZE", world_size)
    assert not distributed.initialize()
    assert not torch.distributed.is_initialized()


def test_two_ranks_sum_exactly_agree_and_exit_cleanly(tmp_path):
    program = """
assert initialize() and not initialize()
assert (rank(), world_size(), is_main(), dist.get_backend()) == (dist.get_rank(), 2, dist.get_rank() == 0, "gloo")
mine = rank()

def check(values, dtype, expected):
    before = torch.tensor(values[mine], dtype=dtype)
    total = sum_float64(before)
    assert torch.equal(before, torch.tensor(values[mine], dtype=dtype)), "the input is left alone"
    assert total.dtype == expected.dtype and torch.equal(total, expected), (total, expected)

check([[2**62, -5], [2**62 - 1, 3]], torch.int64, torch.tensor([2**63 - 1, -2]))
check([[2**53, 0.1], [1.0, 0.2]], torch.float64, torch.tensor([2.0**53 + 1, 0.1 + 0.2], dtype=torch.float64))
check([2.0**24, 1.0], torch.float32, torch.tensor(2.0**24 + 1, dtype=torch.float64))
check([250, 250], torch.uint8, torch.tensor(500))
check([[True, False], [True, True]], torch.bool, torch.tensor([2, 1]))
assert not sum_float64(torch.ones(1, requires_grad=True)).requires_grad
barrier()
os.write(1, f"rank {mine} done\\n".encode())
"""
    run = torchrun(START + program, tmp_path)
    assert run.returncode == 0, run.stderr
    assert sorted(run.stdout.split("\n")) == ["", "rank 0 done", "rank 1 done"]


DDP = """
initialize()
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 2))
for _ in range(2):
    model(torch.ones(3, 4)).sum().backward()
"""


LEAVE = """
assert world_size() == idist.get_world_size() == 2
finalize()
assert world_size() == idist.get_world_size() == 1
finalize()
"""


@pytest.mark.parametrize("ending", ["", LEAVE], ids=["by itself", "by finalize"])
def test_two_ranks_with_a_model_still_alive_leave_without_aborting(ending, tmp_path, soak):
    for _ in range(20 if soak else 1):
        run = torchrun(START + DDP + ending, tmp_path)
        assert run.returncode == 0, run.stderr


def test_two_ranks_that_have_fitted_keep_nothing_of_a_group_that_is_left_or_destroyed(tmp_path):
    program = """
import weakref
from ignite_trainer import Learner, TensorLoader

data = TensorLoader(torch.ones(12, 2), torch.ones(12).long(), batch_size=4)
for leave in (finalize, dist.destroy_process_group):
    learn = Learner(torch.nn.Linear(2, 2), (data, data), torch.nn.CrossEntropyLoss(), 0.1, device="cpu")
    learn.fit(1)
    assert sum_float64(torch.ones(1)) == 2
    group = weakref.ref(dist.group.WORLD)
    leave()
    del learn
    gc.collect()
    assert group() is None, "its threads would still be there when the process exits"
os.write(1, b"done\\n")
"""
    run = torchrun(START + program, tmp_path)
    assert (run.returncode, run.stdout) == (0, "done\n" * 2), run.stderr


def test_two_ranks_that_use_a_learner_beyond_their_group_then_are_told(tmp_path):
    program = """
from ignite_trainer import Learner, TensorLoader

data = TensorLoader(torch.ones(12, 2), torch.ones(12).long(), batch_size=4)
learn = Learner(torch.nn.Linear(2, 2), (data, data), torch.nn.CrossEntropyLoss(), 0.1, device="cpu")
learn.fit(1)
dist.destroy_process_group()
for call in (lambda: learn.fit(1), learn.evaluate, lambda: learn.predict(data)):
    try:
        call()
    except RuntimeError as error:
        text = "a Learner runs with the processes that are there when it is made; it was made for 2, and there are 1"
        assert str(error).startswith(text), error
    else:
        raise AssertionError("it goes on alone")
os.write(1, b"done\\n")
"""
    run = torchrun(START + program, tmp_path)
    assert (run.returncode, run.stdout) == (0, "done\n" * 2), run.stderr


def test_two_ranks_that_write_weights_then_one_writes_and_a_trial_is_refused(tmp_path):
    program = f"""
from ignite_trainer import Learner, LRFinder, TensorLoader

data = TensorLoader(torch.ones(12, 2), torch.ones(12).long(), batch_size=4)
learn = Learner(torch.nn.Linear(2, 2), (data, data), torch.nn.CrossEntropyLoss(), 0.1, device="cpu")
learn.fit(1)
for _ in range(30):
    learn.save({str(tmp_path / "model.safetensors")!r})
learn.export({str(tmp_path / "model.pt2")!r}, "torch")
try:
    learn.save("/proc/nothing/model.safetensors")
except OSError:
    assert is_main()
except RuntimeError as error:
    assert not is_main() and str(error).startswith("what rank 0 does for all has failed there: [Errno 2]")
learn.evaluate()
learn.load({str(tmp_path / "model.safetensors")!r})
try:
    LRFinder(learn).run()
except RuntimeError as error:
    os.write(1, f"{{error}}\\n".encode())
"""
    run = torchrun(START + program, tmp_path)
    line = "a trial runs in one process; this is one of 2: try it without torchrun, and fit with it\n"
    assert (run.returncode, run.stdout) == (0, 2 * line), run.stderr


def test_two_ranks_when_one_raises_end_with_its_error_and_do_not_leave_the_group(tmp_path):
    program = """
number = os.environ["RANK"]
atexit.register(lambda: number == "0" and os.write(1, b"still in the group" if world_size() == 2 else b"left"))
initialize()
if is_main():
    raise RuntimeError("rank 0 has had enough")
sum_float64(torch.ones(1))
"""
    run = torchrun(START + program, tmp_path)
    assert run.returncode == 1
    assert "rank 0 has had enough" in run.stderr
    assert run.stdout == "still in the group"


def test_initialize_with_an_existing_group_uses_it_and_does_not_leave_it(tmp_path):
    program = """
def leave():
    os.write(1, b"still there\\n" if dist.is_initialized() else b"gone\\n")
    gc.collect()
    dist.destroy_process_group()

dist.init_process_group("gloo")
atexit.register(leave)
assert not initialize()
assert sum_float64(torch.tensor(rank() == 1)) == 1
time.sleep(3 * rank())
start = time.monotonic()
assert idist.get_rank() == rank()
assert time.monotonic() - start < 2, "Ignite knows the group already, and asks nobody"
"""
    run = torchrun(START + program, tmp_path)
    assert (run.returncode, run.stdout) == (0, "still there\n" * 2), run.stderr


def test_rank_asked_by_one_rank_alone_answers_where_ignite_waits_for_the_others(tmp_path):
    program = """
dist.init_process_group("gloo")
start = time.monotonic()
assert rank() == dist.get_rank() and is_main() == (dist.get_rank() == 0)
ours = time.monotonic() - start
time.sleep(3 * rank())
start = time.monotonic()
assert idist.get_rank() == rank()
if is_main():
    print(ours < 1, time.monotonic() - start > 1)
finalize()
"""
    run = torchrun(START + program, tmp_path)
    # once Ignite no longer waits, rank() can ask it
    assert run.stdout.split() == ["True", "True"], run.stderr


def test_rank_when_another_is_gone_then_it_ends_with_one_line_and_code_1(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        START
        + """
initialize("cpu")
sum_float64(torch.ones(1))
if rank() == 1:
    os._exit(3)
sum_float64(torch.ones(1))
"""
    )
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(one.getsockname()[1]), "WORLD_SIZE": "2"}
    environment = {**os.environ, **place, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", program], env={**environment, "RANK": n}, stderr=subprocess.PIPE, text=True
        )
        for n in ("0", "1")
    ]
    left, gone = (process.communicate(timeout=120)[1] for process in ranks)
    assert [process.returncode for process in ranks] == [1, 3]
    assert gone == ""
    line = r"rank 0 ends, as another rank is gone; that one's error tells why \(.+\)\n"
    assert re.fullmatch(line, left), left


def test_rank_when_another_is_slower_than_the_timeout_then_says_where_it_waited(tmp_path):
    program = """
import datetime
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=3))
initialize("cpu")
if rank() == 0:
    time.sleep(6)
barrier()
"""
    run = torchrun(START + program, tmp_path)
    assert run.returncode == 1
    assert re.search(r"rank1.*File .*program.py\", line \d+, in <module>\n.*barrier\(\)", run.stderr, re.DOTALL)
    assert "rank 1 ends, as another rank is gone" not in run.stderr


def test_place_of_a_user_whose_folder_is_called_like_the_package_is_found():
    beside = Path(call_places.__file__).parent.with_name("ignite_trainer_jobs") / "job.py"
    place = eval(compile("place_of_user()", str(beside), "eval"), {"place_of_user": call_places.place_of_user})
    assert place == "line 1 of job.py"


def test_job_on_ranks_whose_folders_are_not_shared_then_ends_well_with_the_test_of_the_best_weights(tmp_path):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(one.getsockname()[1]), "WORLD_SIZE": "2"}
    environment = {**os.environ, **place, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    job = ["--data", "glyphs", "--model", "mlp", "--epochs", "1", "--device", "cpu", "--folder", "run"]
    ranks = []
    for number in ("0", "1"):
        (tmp_path / number).mkdir()
        ranks.append(
            subprocess.Popen(
                [sys.executable, "-m", "ignite_trainer", "train", *job],
                cwd=tmp_path / number,
                env={**environment, "RANK": number},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    printed = [process.communicate(timeout=120)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], printed
    assert "test, best" in printed[0]
    assert (tmp_path / "0/run/model.safetensors").exists()
    assert not (tmp_path / "1/run/model.safetensors").exists()
