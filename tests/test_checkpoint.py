"""When a checkpoint is saved: steps, epochs, seconds and signals; where it is found again, and what stays the best."""

import logging
import os
import shutil
import signal
import time

import pytest

from ignite_trainer import Callback, Checkpoint
from ignite_trainer.handlers.checkpoint import load_checkpoint
from tests.resume_jobs import end_of, equal
from tests.test_resume import plain
from tests.tiny import blobs


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
        ({"every_epochs": 2}, 5, [10, 20, 25]),
        ({"every_epochs": None}, 2, [10]),
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
    assert caplog.messages == [f"stopped by SIGTERM after step {left[0]}: {path} can be resumed"]
    assert signal.getsignal(signal.SIGTERM) is former
    again = learner(folder, checkpoint=options, valid=True, accumulate=accumulate)
    again.fit(3, resume=True)
    assert equal(end_of(again), expected)


@pytest.mark.parametrize("place", [(1, 4), (1, 2, False)], ids=["last batch", "last validation"])
def test_fit_when_signalled_at_its_very_end_then_is_finished(place, tmp_path):
    learner(tmp_path, [Signal(*place)], valid=True).fit(2)
    again = learner(tmp_path, valid=True)
    again.fit(2, resume=True)
    assert again.stop_reason.startswith("finished before: 2 epochs")


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
    learner(tmp_path, [Losses()], {"monitor": then}).fit(3, resume=True)
    assert best_step(tmp_path) == step


def test_best_checkpoint_when_a_learner_fits_again_then_is_that_of_the_last_fit(tmp_path):
    learn = learner(tmp_path, [Losses()], {"monitor": "train_loss"})
    models = []
    for _ in range(2):
        learn.fit(2)
        models.append(load_checkpoint(tmp_path / "checkpoints" / "best.pt")["model"])
    assert not equal(*models)


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
