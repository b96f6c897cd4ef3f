"""Crash reports and their replay: the batch that broke breaks again, in another process, with the same bits."""

import re
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from ignite_trainer import Callback, CancelFitException, Checkpoint, Learner, TensorLoader
from ignite_trainer.cli import main
from ignite_trainer.handlers import CrashReport, load_crash
from tests import crash_jobs, processes
from tests.tiny import blobs, mlp


def broken(name, folder):
    """The report of a job that broke, and what it raised."""
    learn, n_epochs = getattr(crash_jobs, name)(folder)
    try:
        learn.fit(n_epochs)
    except Exception as raised:
        return load_crash(folder / "crash.pt"), raised, learn
    return load_crash(folder / "crash.pt"), None, learn


def test_a_job_that_breaks_when_replayed_in_another_process_then_the_same_error_comes(tmp_path):
    job = processes.run("tests.crash_jobs", "in_training", tmp_path)
    assert job.returncode == 1
    error = next(line for line in job.stderr.splitlines() if line.startswith("ValueError: "))  # a note comes after it
    assert re.fullmatch(r"ValueError: it breaks at \d\.\d+", error)
    words = ["replay", str(tmp_path / "crash.pt"), "tests.crash_jobs:in_training"]
    done = processes.run("ignite_trainer", *words)
    assert (done.returncode, done.stderr) == (0, "")
    order = crash_jobs.make(tmp_path)[0].train_dl.order
    assert done.stdout.splitlines() == [
        error,
        "raised by Break.after_backward (event BACKWARD_COMPLETED): training, epoch 1, batch 2, before its step",
        f"samples {', '.join(map(str, order.indices(1)[16:24].tolist()))}",
        "again: the same error, raised by the same",
    ]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (
            "in_training",
            "raised by Break.after_backward (event BACKWARD_COMPLETED): training, epoch 1, batch 2, before",
        ),
        ("in_validation", "raised by Break.after_loss (event LOSS_COMPUTED): validation, epoch 1, batch 2"),
        ("in_the_loss", "raised by the step: training, epoch 0, batch 5, before its step"),
        ("in_a_metric", "raised by the metric 'share' at ITERATION_COMPLETED: validation, epoch 0, batch 2"),
        ("in_a_handler", "breaks at LOSS_COMPUTED: training, epoch 1, batch 2, before its step"),
    ],
)
def test_replay_of_an_error_then_it_comes_again_with_the_same_bits(name, place, tmp_path, capsys):
    _, error, _ = broken(name, tmp_path)
    assert main(["replay", str(tmp_path / "crash.pt"), f"tests.crash_jobs:{name}"]) == 0
    first, second, *of_the_metric, third, again = capsys.readouterr().out.splitlines()
    assert first == f"{type(error).__name__}: {error}"
    assert place in second
    begins_anew = "the metric begins with this batch: what it had added up before is not in the report"
    assert of_the_metric == ([begins_anew] if name == "in_a_metric" else [])
    assert third.startswith("samples ")
    assert again == "again: the same error, raised by the same"


def test_crash_report_when_a_callback_of_low_order_breaks_a_batch_then_has_that_batch(tmp_path):
    class Breaks(Callback):
        order = -200

        def before_batch(self, learn):
            if learn.iter == 2:
                self.batch = learn.batch
                raise ValueError("breaks early")

    learn, breaks = crash_jobs.make(tmp_path)[0], Breaks()
    learn.cbs.append(breaks)
    with pytest.raises(ValueError, match="breaks early"):
        learn.fit(1)
    x, y = load_crash(tmp_path / "crash.pt")["inputs"]
    assert torch.equal(x, breaks.batch[0])
    assert torch.equal(y, breaks.batch[1])


def test_replay_of_a_batch_of_a_kind_that_a_report_cannot_keep_then_says_so(tmp_path, capsys):
    broken("in_a_packed_batch", tmp_path)
    assert main(["replay", str(tmp_path / "crash.pt"), "tests.crash_jobs:in_a_packed_batch"]) == 1
    out = capsys.readouterr().out
    assert "a report keeps plain data: of PackedSequence in the batch it has the contents alone" in out
    assert "again: another error came: AttributeError" in out


def test_replay_of_a_job_with_writers_then_they_are_not_missed(tmp_path):
    broken("in_training_with_files", tmp_path)
    words = ["replay", str(tmp_path / "crash.pt"), "tests.crash_jobs:in_training_with_files"]
    assert main(words) == 0  # that one is missed would be a warning, and so an error


def test_crash_report_when_a_callback_evaluates_in_the_batch_that_breaks_then_names_that_batch(tmp_path):
    class Evaluates(Callback):
        def before_batch(self, learn):
            if learn.engine.training:
                learn.evaluate()

    learn, n_epochs = crash_jobs.in_training(tmp_path)
    learn.cbs.insert(0, Evaluates())
    with pytest.raises(ValueError, match="it breaks"):
        learn.fit(n_epochs)
    report = load_crash(tmp_path / "crash.pt")
    assert (report["phase"], report["epoch"], report["batch"]) == ("training", 1, 2)
    assert torch.equal(report["inputs"][0], learn.batch[0])


def test_replay_of_an_error_after_the_step_then_says_so_and_another_loss_breaks(tmp_path, capsys):
    broken("after_the_step", tmp_path)
    assert main(["replay", str(tmp_path / "crash.pt"), "tests.crash_jobs:after_the_step"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("training, epoch 1, batch 2, after its step")
    assert lines[3].startswith("again: another error came: ValueError: it breaks at ")
    assert lines[3].endswith(", raised by Break.after_batch")


def test_replay_with_the_job_mended_then_no_error_comes(tmp_path, capsys):
    broken("in_training", tmp_path)
    assert main(["replay", str(tmp_path / "crash.pt"), "tests.crash_jobs:mended"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "again: no error came"


def test_replay_without_a_job_then_shows_the_report(tmp_path, capsys):
    broken("in_the_loss", tmp_path)
    assert main(["replay", str(tmp_path / "crash.pt")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_replay_with_a_mistake_then_it_is_one_line_and_2(tmp_path, capsys):
    broken("in_training", tmp_path)
    path = str(tmp_path / "crash.pt")
    for words, text in [
        (
            [path, "tests.crash_jobs:with_other_data"],
            "crash.pt was saved with n_samples 44, the training loader has 48",
        ),
        ([str(tmp_path / "none.pt")], "none.pt or its sum cannot be read"),
        ([str(next((tmp_path / "checkpoints").glob("*.pt")))], ".pt is no crash report of this version"),
        ([path, "tests.crash_jobs:nothing"], "module tests.crash_jobs has nothing of that name"),
    ]:
        assert main(["replay", *words]) == 2
        err = capsys.readouterr().err
        assert text in err
        assert err.count("\n") == 1


def test_report_of_an_error_then_has_the_batch_and_the_weights_at_its_start(tmp_path):
    report, _, _ = broken("in_training", tmp_path)
    loader = crash_jobs.make(tmp_path)[0].train_dl
    x, y = loader.tensors
    assert torch.equal(report["inputs"][0], x[report["samples"]])
    assert torch.equal(report["inputs"][1], y[report["samples"]])
    assert (report["phase"], report["epoch"], report["batch"], report["step_taken"]) == ("training", 1, 2, False)

    weights = {}

    class Keep(crash_jobs.Callback):
        order = -200

        def before_batch(self, learn):
            if learn.model.training and (learn.epoch, learn.iter) == (1, 2):
                weights.update({name: p.detach().clone() for name, p in learn.model.named_parameters()})

    learn, n_epochs = crash_jobs.make(tmp_path / "twin", [Keep()])
    learn.fit(n_epochs)
    assert all(torch.equal(report["state"]["model"][name], weight) for name, weight in weights.items())


def test_report_in_validation_with_averages_then_has_the_averages(tmp_path):
    report, _, learn = broken("in_validation", tmp_path)
    assert report["state"]["callbacks"]["EMA"]["in_model"]
    trained = dict(learn.model.named_parameters())  # the average left it with the error
    assert not any(torch.equal(report["state"]["model"][name], weight) for name, weight in trained.items())


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("not_finite", "NaNGuard('skip') looks before the step"),
        ("not_finite_at_the_end", "NaNGuard(every_steps=1) looks sooner"),
    ],
)
def test_report_of_a_stop_by_nan_guard_then_replay_says_the_loss_is_not_finite(name, way_out, tmp_path, capsys):
    report, error, learn = broken(name, tmp_path)
    assert error is None
    assert report["error"] == {"type": "", "text": learn.stop_reason, "raised_by": ""}
    assert main(["replay", str(tmp_path / "crash.pt"), f"tests.crash_jobs:{name}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("NaN guard: the loss became nan in epoch 1, batch 2 (from 0)")
    assert lines[1] == f"noticed: training, epoch 1, batch {report['batch']}, after its step"
    assert lines[-2].endswith(f"is not finite already: {way_out}")
    assert lines[-1] == "again: the loss is nan"


def test_report_when_the_loader_had_been_put_elsewhere_before_the_fit_then_names_the_samples_of_the_batch(tmp_path):
    class Fails(crash_jobs.Callback):
        def after_loss(self, learn):
            if learn.iter == 1:
                raise ValueError("no")

    x, y = blobs(40)
    loader = TensorLoader(x, y, batch_size=8, shuffle=True)
    loader.seek(3, 2)
    cbs = [Fails(), Checkpoint()]
    with pytest.raises(ValueError, match="no"):
        Learner(mlp(), (loader, None), nn.CrossEntropyLoss(), 0.1, cbs, folder=tmp_path, device="cpu").fit(1)
    report = load_crash(tmp_path / "crash.pt")
    assert torch.equal(report["inputs"][0], x[report["samples"]])


def test_report_of_a_nan_that_is_noticed_later_then_names_the_samples_of_the_first(tmp_path, capsys):
    report, error, learn = broken("not_finite_later", tmp_path)
    assert isinstance(error, FloatingPointError)
    first = learn.train_dl.order.indices(1)[16:24].tolist()
    assert report["first_bad"] == {"epoch": 1, "batch": 2, "samples": first}
    assert main(["replay", str(tmp_path / "crash.pt")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"samples of the first batch that was not finite, 2: {', '.join(map(str, first))}"


def test_report_of_a_stop_at_the_end_of_an_epoch_then_has_the_training_batch_and_no_validation_batch(tmp_path):
    report, _, learn = broken("not_finite_at_the_end", tmp_path)
    assert learn.history[-1]["epoch"] == 1
    assert (report["phase"], report["epoch"], report["batch"]) == ("training", 1, 5)
    assert report["first_bad"]["batch"] == 2


def test_evaluate_outside_a_fit_with_a_checkpoint_then_runs(tmp_path):
    learn, _ = crash_jobs.make(tmp_path)
    assert learn.evaluate()["loss"] > 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, CancelFitException])
def test_no_report_of_what_is_no_error(error, tmp_path):
    class Ends(crash_jobs.Callback):
        def after_loss(self, learn):
            raise error

    learn, n_epochs = crash_jobs.make(tmp_path, [Ends()])
    with pytest.raises(error) if error is not CancelFitException else nullcontext():
        learn.fit(n_epochs)
    assert not (tmp_path / "crash.pt").exists()


@pytest.mark.parametrize("point", ["before_epoch", "after_epoch", "after_validate"])
def test_no_report_of_an_error_between_batches(point, tmp_path):
    class Breaks(crash_jobs.Callback):
        pass

    breaks = Breaks()
    setattr(breaks, point, lambda learn: 1 / 0)
    learn, n_epochs = crash_jobs.make(tmp_path, [breaks])
    with pytest.raises(ZeroDivisionError):
        learn.fit(n_epochs)
    assert not (tmp_path / "crash.pt").exists()


def test_no_report_of_a_metric_that_raises_where_a_callback_evaluates_between_epochs(tmp_path):
    class Tests(Callback):
        def after_validate(self, learn):
            learn.evaluate([(torch.ones(3, 6), torch.zeros(3, dtype=torch.int64))])

    def of_three(preds, y):
        return 1 / 0 if len(y) == 3 else preds.mean()

    learn, n_epochs = crash_jobs.make(tmp_path, [Tests()], metrics={"share": of_three})
    with pytest.raises(ZeroDivisionError) as caught:
        learn.fit(n_epochs)
    assert caught.value.raised_by == "the metric 'share' at ITERATION_COMPLETED"
    assert not (tmp_path / "crash.pt").exists()


def test_report_that_cannot_be_written_then_the_error_of_the_fit_goes_on_and_it_is_said(tmp_path, caplog):
    learn, n_epochs = crash_jobs.in_training(tmp_path / "run")
    learn.cbs = [cb for cb in learn.cbs if not hasattr(cb, "brings")]
    learn.cbs.append(CrashReport(tmp_path / "file"))
    (tmp_path / "file").write_text("a file where the folder should be")
    with pytest.raises(ValueError, match="it breaks"):
        learn.fit(n_epochs)
    assert "no crash report was written to" in caplog.text
