"""When a checkpoint is saved: steps, epochs, seconds and signals; where it is found again, and what stays the best."""

import logging
import math
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from ignite.engine import Events
from ignite.handlers import TerminateOnNan
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR

from ignite_trainer import Callback, CancelEpochException, CancelFitException, Checkpoint, NaNGuard, Schedule
from ignite_trainer.handlers.state_files import StateWriter, load_checkpoint, newest_checkpoint, newest_first
from tests.resume_jobs import end_of, equal
from tests.test_resume import plain
from tests.tiny import Centred, blobs, mlp


def learner(folder, cbs=(), checkpoint=None, valid=False, **how):
    """Five batches an epoch, all checkpoints kept."""
    learn = plain(folder, cbs=cbs, **how)
    learn.cbs[-1] = Checkpoint(**{"keep": 100, **(checkpoint or {})})
    learn.valid_dl = [blobs(8, seed=1)] * 3 if valid else None
    return learn


def saved(folder):
    """The steps of the checkpoints, and where each goes on: (step, epoch, batch)."""
    states = [load_checkpoint(path)["progress"] for path in sorted((folder / "checkpoints").glob("step-*.pt"))]
    return [(state["step"], state["epoch"], state["batch"]) for state in states]


def steps_saved(folder):
    return [step for step, _, _ in saved(folder)]


@pytest.mark.parametrize(
    ("intervals", "n_epochs", "steps"),
    [
        ({"every_steps": 2, "every_epochs": None}, 2, [2, 4, 6, 8, 10]),
        ({"every_steps": 3, "every_epochs": None}, 2, [3, 6, 9, 10]),
        ({"every_steps": 5, "every_epochs": None}, 3, [5, 10, 15]),  # due on an epoch's last batch
        ({"every_steps": 4}, 2, [4, 5, 9, 10]),  # counted from any save
        ({}, 3, [5, 10, 15]),
        ({"every_epochs": 3}, 5, [15, 25]),
        ({"every_epochs": None}, 2, [10]),
        ({}, 0, []),
        ({"every_epochs": None, "every_seconds": 1e-9}, 1, [1, 2, 3, 4, 5]),
        ({"every_epochs": None, "every_seconds": 20}, 2, [10]),
    ],
)
def test_checkpoint_when_an_interval_is_given_then_is_saved_so_often_and_at_the_end(
    intervals, n_epochs, steps, tmp_path
):
    learner(tmp_path, checkpoint=intervals).fit(n_epochs)
    assert steps_saved(tmp_path) == steps


def test_checkpoint_when_a_save_is_late_then_the_next_one_is_due_so_many_seconds_after_it(tmp_path):
    class Pause(Callback):
        def after_loss(self, learn):
            if learn.step == 1:
                time.sleep(0.6)

    learner(tmp_path, [Pause()], {"every_epochs": None, "every_seconds": 0.5}).fit(2)
    assert steps_saved(tmp_path) == [2, 10]


def test_checkpoint_when_due_in_a_window_or_on_a_last_batch_then_waits_for_the_step_or_the_validation(tmp_path):
    learner(tmp_path, checkpoint={"every_seconds": 1e-9}, valid=True, accumulate=2).fit(2)
    assert saved(tmp_path) == [(1, 0, 2), (2, 0, 4), (3, 1, 0), (4, 1, 2), (5, 1, 4), (6, 2, 0)]


class Signal(Callback):
    """Sends this process a signal, once, in a batch of an epoch's training or validation."""

    def __init__(self, epoch, batch, training=True):
        self.place, self.sent = (epoch, batch, training), False

    def after_loss(self, learn):
        if (learn.epoch, learn.iter, learn.model.training) == self.place:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("place", "accumulate", "left"),
    [
        ((1, 1), 1, (7, 1, 2)),
        ((1, 0), 2, (4, 1, 2)),  # in a window
        ((0, 4), 1, (5, 1, 0)),  # the last batch of an epoch
        ((0, 1, False), 1, (5, 1, 0)),
    ],
    ids=["batch", "window", "last batch", "validation"],
)
@pytest.mark.parametrize("background", [False, True], ids=["at once", "background"])
def test_fit_when_signalled_then_saves_exits_75_and_goes_on_to_the_same_bits(
    place, accumulate, left, background, tmp_path, caplog
):
    caplog.set_level(logging.WARNING, logger="ignite_trainer")
    whole = learner(tmp_path / "whole", valid=True, accumulate=accumulate)
    whole.fit(3)
    expected, former = end_of(whole), signal.getsignal(signal.SIGTERM)
    folder, options = tmp_path / "run", {"every_epochs": None, "background": background}
    with pytest.raises(SystemExit) as ended:
        learner(folder, [Signal(*place)], options, valid=True, accumulate=accumulate).fit(3)
    assert ended.value.code == 75
    assert saved(folder) == [left]
    path = folder / "checkpoints" / f"step-{left[0]:08d}.pt"
    text = f"stopped by SIGTERM after step {left[0]}: {path} can be resumed"
    assert caplog.record_tuples == [("ignite_trainer", logging.WARNING, text)]
    assert signal.getsignal(signal.SIGTERM) is former
    again = learner(folder, checkpoint=options, valid=True, accumulate=accumulate)
    again.fit(3, resume=True)
    assert equal(end_of(again), expected)


@pytest.mark.parametrize("n_epochs", [1, 2])
def test_fit_when_its_last_epoch_is_cut_amid_a_window_then_its_end_is_saved_and_a_resume_trains_nothing(
    n_epochs, tmp_path
):
    class Cuts(Callback):
        def after_batch(self, learn):
            if learn.engine.training and (learn.epoch, learn.iter) == (n_epochs - 1, 3):
                raise CancelEpochException

    whole = learner(tmp_path, [Cuts()], valid=True, accumulate=3)
    whole.fit(n_epochs)
    expected = end_of(whole)
    assert saved(tmp_path)[-1] == (2 * n_epochs - 1, n_epochs, 0)
    again = learner(tmp_path, [Cuts()], valid=True, accumulate=3)
    again.fit(n_epochs, resume=True)
    assert "finished before" in again.stop_reason
    assert equal(end_of(again), expected)


@pytest.mark.parametrize("place", [(1, 4), (1, 2, False)], ids=["last batch", "last validation"])
def test_fit_when_signalled_at_its_very_end_then_is_finished(place, tmp_path):
    learner(tmp_path, [Signal(*place)], valid=True).fit(2)
    again = learner(tmp_path, valid=True)
    again.fit(2, resume=True)
    assert again.stop_reason.startswith("finished before, after epoch 2 and ")


class Poison(Callback):
    """Makes the loss of one batch NaN, and with it, at its step, the weights."""

    def after_loss(self, learn):
        if (learn.epoch, learn.iter) == (1, 2) and learn.model.training:
            learn.loss = learn.loss * math.nan


def finite(path):
    return all(tensor.isfinite().all() for tensor in load_checkpoint(path)["model"].values())


@pytest.mark.parametrize("guard", ["none", "NaNGuard", "Ignite's"])
@pytest.mark.parametrize("background", [False, True], ids=["at once", "background"])
def test_checkpoint_when_weights_have_become_nan_then_the_last_good_ones_stay_and_are_gone_on_from(
    guard, background, tmp_path, caplog
):
    options = {"every_steps": 1, "keep": 2, "monitor": "train_loss", "background": background}
    whole = learner(tmp_path / "whole")
    whole.fit(3)
    expected = end_of(whole)
    learn = learner(tmp_path / "run", [Poison(), *([NaNGuard()] if guard == "NaNGuard" else [])], options)
    if guard == "Ignite's":
        learn.trainer.add_event_handler(Events.ITERATION_COMPLETED, TerminateOnNan())
    learn.fit(3)
    assert steps_saved(tmp_path / "run") == [6, 7]
    assert all(map(finite, (tmp_path / "run" / "checkpoints").glob("*.pt")))
    warnings = [record.message for record in caplog.records if record.name == "ignite_trainer"]
    assert warnings[-1:] == [
        "a checkpoint is there to go on from, and after step 8 0.weight is not finite: it is not saved, and the last "
        "good one stays; NaNGuard() ends such a fit"
    ]
    again = learner(tmp_path / "run", checkpoint=options)
    again.fit(3, resume=True)
    assert equal(end_of(again), expected)


def test_fit_when_signalled_with_nan_in_its_weights_then_exits_75_and_names_the_last_good_checkpoint(tmp_path, caplog):
    with pytest.raises(SystemExit) as ended:
        learner(tmp_path, [Poison(), Signal(1, 3)]).fit(3)
    assert ended.value.code == 75
    assert steps_saved(tmp_path) == [5]
    path = tmp_path / "checkpoints" / "step-00000005.pt"
    assert caplog.records[-1].message == f"stopped by SIGTERM after step 9: {path} can be resumed"


def test_checkpoint_when_a_weight_was_infinite_from_the_start_then_is_saved_as_ever(tmp_path, caplog):
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(6, 3)
            self.mask = nn.Parameter(torch.tensor([0.0, 0.0, -math.inf]))

    learner(tmp_path, model=Masked()).fit(2)
    learner(tmp_path, model=Masked()).fit(3, resume=True)
    assert steps_saved(tmp_path) == [5, 10, 15]
    assert not caplog.records


def test_checkpoint_when_written_in_the_background_then_a_scheduler_keeps_its_milestones(tmp_path):
    def job():
        schedule = Schedule(lambda opt: MultiStepLR(opt, [2, 3]), step="epoch")
        return learner(tmp_path, [schedule], {"background": True})

    job().fit(2)
    again = job()
    again.fit(4, resume=True)
    assert [row["lr"] for row in again.history] == pytest.approx([0.1, 0.1, 0.01, 0.001])


class CutEpoch(Callback):
    """Ends each epoch after three batches, before the checkpoint is asked."""

    order = 80

    def after_batch(self, learn):
        if learn.engine.training and learn.iter == 2:
            learn.trainer.terminate_epoch()


def test_checkpoint_when_due_in_the_batch_that_ends_a_cut_epoch_then_waits_for_the_validation(tmp_path):
    whole = learner(tmp_path / "whole", [CutEpoch()], valid=True)
    whole.fit(3)
    expected = end_of(whole)
    learner(tmp_path / "run", [CutEpoch()], {"every_steps": 3}, valid=True).fit(2)
    assert saved(tmp_path / "run") == [(3, 1, 0), (6, 2, 0)]
    with pytest.raises(SystemExit):
        learner(tmp_path / "cut", [CutEpoch(), Signal(1, 2)], valid=True).fit(3)
    for name in ("run", "cut"):
        again = learner(tmp_path / name, [CutEpoch()], valid=True)
        again.fit(3, resume=True)
        assert equal(end_of(again), expected)


def test_checkpoint_when_a_state_could_not_be_loaded_again_then_is_refused_before_anything_is_trained(tmp_path):
    model = mlp()
    groups = [{"params": model.parameters(), "weight_decay": np.float32(0.1)}]
    learn = learner(tmp_path, model=model, param_groups=groups)
    with pytest.raises(TypeError, match="something else is in optimizer param_groups"):
        learn.fit(1)
    assert learn.step == 0


def test_resume_with_a_loss_that_has_a_state_then_it_goes_on_with_it(tmp_path):
    def job(name):
        learn = learner(tmp_path / name, valid=True)
        learn.loss_func = Centred()
        return learn

    whole = job("whole")
    whole.fit(3)
    expected = end_of(whole)
    job("run").fit(2)
    again = job("run")
    again.fit(3, resume=True)
    assert equal(end_of(again), expected)
    other = learner(tmp_path / "run", valid=True)
    with pytest.raises(ValueError, match=r"saved with centre of shape \(3,\), the loss has None now: the same loss is"):
        other.fit(3, resume=True)


def test_resume_with_two_checkpoints_then_the_second_keeps_its_best(tmp_path):
    def job():
        learn = learner(tmp_path / "run", valid=True)
        learn.cbs.append(Checkpoint(tmp_path / "other", monitor="valid_loss"))
        return learn

    job().fit(2)
    best = (tmp_path / "other" / "checkpoints" / "best.pt").read_bytes()
    again = job()
    again.fit(2, resume=True)
    assert (tmp_path / "other" / "checkpoints" / "best.pt").read_bytes() == best
    assert steps_saved(tmp_path / "other") == [5, 10]


@pytest.mark.parametrize("point", ["before_batch", "after_predict", "after_batch"])
def test_stop_at_any_point_of_a_batch_then_that_batch_is_done_and_a_resume_goes_on_behind_it(point, tmp_path):
    class Stop(Callback):
        pass

    def stop(self, learn):
        if (learn.epoch, learn.iter) == (1, 2):
            learn.stop("enough", outcome="resumable")

    setattr(Stop, point, stop)
    whole = learner(tmp_path / "whole")
    whole.fit(3)
    expected = end_of(whole)
    learner(tmp_path / "run", [Stop()]).fit(3)
    assert saved(tmp_path / "run")[-1] == (8, 1, 3)
    again = learner(tmp_path / "run")
    again.fit(3, resume=True)
    assert equal(end_of(again), expected)


class End(Callback):
    """Ends the fit in the middle of its first epoch, or after it, to be gone on with."""

    def __init__(self, point):
        setattr(self, point, self.end)

    def end(self, learn):
        if learn.engine.training and learn.iter == 2:
            raise CancelFitException
        if learn.epoch == 0 and learn.history:
            learn.stop("for a while", outcome="resumable")


@pytest.mark.parametrize("point", ["after_batch", "after_validate"])
def test_fit_when_cancelled_or_stopped_before_its_end_then_is_not_finished(point, tmp_path):
    learner(tmp_path, [End(point)]).fit(2)
    again = learner(tmp_path)
    again.fit(2, resume=True)
    assert (len(again.history), again.stop_reason) == (2, "")


@pytest.mark.parametrize("inside", [".", "checkpoints"])
def test_resume_when_given_the_folder_of_another_run_then_goes_on_from_its_newest(inside, tmp_path):
    whole = learner(tmp_path / "whole")
    whole.fit(3)
    expected = end_of(whole)
    learner(tmp_path / "first").fit(2)
    second = learner(tmp_path / "second")
    second.fit(3, resume=tmp_path / "first" / inside)
    assert equal(end_of(second), expected)
    assert steps_saved(tmp_path / "second") == [15]


class Losses(Callback):
    """Sets the training loss of each epoch."""

    def after_validate(self, learn):
        learn.history[-1]["train_loss"] = (1.0, 3.0, 2.0)[learn.epoch]


def best_step(folder):
    return load_checkpoint(folder / "checkpoints" / "best.pt")["progress"]["step"]


@pytest.mark.parametrize(
    ("first", "then", "step"),
    [("train_loss", "train_loss", 5), ("train_loss", "lr", 15), (None, "train_loss", 15), ("train_loss", None, 5)],
)
def test_best_checkpoint_when_resumed_then_stays_unless_another_value_is_monitored(first, then, step, tmp_path):
    learner(tmp_path, [Losses()], {"monitor": first}).fit(2)
    learner(tmp_path, [Losses()], {"monitor": then, "mode": "max" if then == "lr" else "auto"}).fit(3, resume=True)
    assert best_step(tmp_path) == step


def test_best_checkpoint_when_a_learner_fits_again_then_is_that_of_the_last_fit(tmp_path):
    learn = learner(tmp_path, [Losses()], {"monitor": "train_loss"})
    models = []
    for _ in range(2):
        learn.fit(2)
        models.append(load_checkpoint(tmp_path / "checkpoints" / "best.pt")["model"])
    assert not equal(*models)


def test_checkpoint_when_it_has_a_folder_of_its_own_then_all_is_written_and_found_there(tmp_path):
    class Break(Callback):
        def after_loss(self, learn):
            if learn.epoch == 1:
                raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        learner(tmp_path / "run", [Break()], {"folder": tmp_path / "own"}).fit(2)
    assert (tmp_path / "own" / "crash.pt").exists()
    assert steps_saved(tmp_path / "own") == [5]
    again = learner(tmp_path / "run", checkpoint={"folder": str(tmp_path / "own")})
    again.fit(2, resume=True)
    assert (len(again.history), steps_saved(tmp_path / "own")) == (2, [5, 10])


def test_checkpoint_when_nothing_is_said_then_keeps_the_newest_two(tmp_path):
    plain(tmp_path).fit(3)
    assert steps_saved(tmp_path) == [10, 15]


@pytest.mark.parametrize("background", [False, True], ids=["at once", "background"])
def test_checkpoint_when_only_one_is_kept_then_a_better_value_leaves_it_and_a_newer_one_takes_its_place(
    background, tmp_path
):
    seen = []

    class Falling(Callback):
        def before_epoch(self, learn):
            time.sleep(0.1 * background)  # the file is written by then
            seen.append(steps_saved(tmp_path) if learn.epoch else [])

        def after_validate(self, learn):
            learn.history[-1]["train_loss"] = -learn.epoch

    options = {"keep": 1, "every_epochs": 2, "monitor": "train_loss", "background": background}
    learner(tmp_path, [Falling()], options).fit(4)
    assert (seen, steps_saved(tmp_path)) == ([[], [], [10], [10]], [20])


def test_fit_when_its_last_save_in_the_background_fails_then_raises(tmp_path):
    class Spoil(Callback):
        def after_fit(self, learn):
            shutil.rmtree(tmp_path / "checkpoints")
            (tmp_path / "checkpoints").touch()

    with pytest.raises(OSError, match="checkpoints"):
        learner(tmp_path, [Spoil()], {"every_epochs": None, "background": True}).fit(1)


def test_checkpoint_when_the_background_save_fails_then_a_batch_raises_and_no_other_file_is_tried(tmp_path):
    class Spoil(Callback):
        def after_step(self, learn):
            if learn.step == 2:
                shutil.rmtree(tmp_path / "checkpoints")
                (tmp_path / "checkpoints").touch()
            time.sleep(0.1)

    learn = learner(tmp_path, [Spoil()], {"every_steps": 2, "background": True})
    with pytest.raises(OSError, match="checkpoints"):
        learn.fit(2)
    assert learn.step == 3


@pytest.mark.parametrize("n_epochs", [1, 3, 4])
def test_fit_when_begun_anew_in_a_folder_of_checkpoints_then_a_resume_goes_on_with_it_and_those_are_kept(
    n_epochs, tmp_path
):
    class Cut(Callback):
        def after_step(self, learn):
            if learn.step == 8:
                raise KeyError("cut")

    def faster(*args):
        learn = learner(*args)
        learn.lr = 0.3
        return learn

    learner(tmp_path, checkpoint={"monitor": "train_loss"}).fit(n_epochs)
    files = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(KeyError, match="cut"):
        faster(tmp_path, [Cut()], {"every_steps": 1}).fit(3)
    assert steps_saved(tmp_path) == list(range(1, 8))
    assert sorted(path.name for path in (tmp_path / "checkpoints" / "earlier-1").iterdir()) == files
    again = faster(tmp_path)
    again.fit(3, resume=True)
    end = end_of(again)
    whole = faster(tmp_path / "whole")
    whole.fit(3)
    assert equal(end, end_of(whole))


def test_fit_when_resumed_from_an_older_checkpoint_then_newer_ones_are_set_aside(tmp_path):
    learner(tmp_path).fit(3)
    learn = learner(tmp_path)
    learn.fit(2, resume=tmp_path / "checkpoints" / "step-00000005.pt")
    assert steps_saved(tmp_path) == [5, 10]
    assert len(list((tmp_path / "checkpoints" / "earlier-1").glob("step-*.pt"))) == 2


def test_checkpoint_when_its_step_has_nine_digits_then_it_is_the_newest(tmp_path):
    folder = tmp_path / "checkpoints"
    learn = learner(tmp_path)
    learn.fit(1)
    for suffix in ("", ".sha256"):
        (folder / f"step-00000005.pt{suffix}").rename(folder / f"step-99999999.pt{suffix}")
    state, _ = newest_checkpoint(folder)
    state["progress"]["step"] = 10**8
    StateWriter().write(folder / "step-100000000.pt", state, keep=1)
    assert [path.name for path in newest_first(folder)] == ["step-100000000.pt"]
    learner(tmp_path).fit(2, resume=True)
    assert [path.name for path in newest_first(folder)] == ["step-100000005.pt", "step-100000000.pt"]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_checkpoint_when_told_what_is_better_then_the_best_is_that(mode, tmp_path):
    class Falling(Callback):
        def after_validate(self, learn):
            learn.history[-1]["train_loss"] = -learn.epoch

    learner(tmp_path, [Falling()], {"monitor": "train_loss", "mode": mode}).fit(3)
    best = load_checkpoint(tmp_path / "checkpoints" / "best.pt")
    assert best["progress"]["epoch"] == (3 if mode == "min" else 1)


def test_checkpoint_when_written_in_the_background_then_modules_keep_their_versions(tmp_path):
    for background in (False, True):
        model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
        learner(tmp_path / str(background), checkpoint={"background": background}, model=model).fit(1)
    states = [
        load_checkpoint(tmp_path / str(background) / "checkpoints" / "step-00000005.pt") for background in (False, True)
    ]
    assert [state["model"]._metadata["1"] for state in states] == [{"version": 2}] * 2
