"""Validation: what follows each epoch of training, up to VALIDATED."""

from __future__ import annotations

import math
import time

from ignite.engine import Events

from .callbacks import warn_of_uncalled
from .collectives import of_main
from .engines import CancellableEngine, always
from .events import Scope, TrainEvents
from .learner_like import LearnerLike
from .optim import rates_of

__all__ = ["Validation"]


class Validation:
    """Runs the evaluator when the trainer's epoch is over, adds the epoch's row to the history, then fires VALIDATED.

    It is attached to the trainer's EPOCH_COMPLETED, after the callbacks and before users' handlers, which therefore see
    the validation's results. VALIDATED is fired after those handlers.

    Args:
        learn: the Learner.
    """

    def __init__(self, learn: LearnerLike):
        self.learn = learn
        self._step_was_seen = False  # in this fit: an epoch of a step of one's own
        self._due = False  # VALIDATED, for the epoch that is ending

    def attach(self, trainer: CancellableEngine) -> None:
        """Have both happen at the ends of the trainer's epochs."""
        trainer.add_event_handler(Events.EPOCH_COMPLETED, always(self.run))
        trainer.add_event_handler(Events.TERMINATE_SINGLE_EPOCH, always(self.run_after_cut))
        trainer.attach_last(Events.EPOCH_COMPLETED, self.announce)

    def run(self) -> None:
        """Evaluate and add the row."""
        learn = self.learn
        learn.in_training_epoch = self._due = False
        if not learn.history:
            self._step_was_seen = False
        if learn.has_own_step and learn.in_fit and learn.trainer.place >= 0 and not self._step_was_seen:
            self._step_was_seen = True
            warn_of_uncalled(learn.cbs, learn.called_by_name)
        if learn.ranks is not None:
            learn.ranks.end_epoch()
        if learn.trainer.cancelled == Scope.FIT or not learn.in_fit:
            return
        if learn.validates:
            learn.validating = True
            learn.results = learn.run_evaluator(learn.valid_dl)
            learn.validating = False
        if learn.trainer.cancelled != Scope.FIT:
            learn.history.append(self._row())
            self._due = True

    def run_after_cut(self, iter_counter: int) -> None:
        """Validate an epoch that was cut short too; as no EPOCH_COMPLETED follows, VALIDATED is fired at once."""
        if self.learn.trainer.should_terminate_single_epoch == "skip_epoch_completed":
            self.run()
            self.announce()

    def announce(self) -> None:
        """Fire VALIDATED, unless the fit was cancelled."""
        if not self._due:
            return
        self._due, trainer = False, self.learn.trainer
        if self.learn.ranks is not None:
            self.learn.ranks.agree(trainer)
        if trainer.cancelled != Scope.FIT and self.learn.in_fit:
            trainer.cancelled = 0
            trainer.fire_event(TrainEvents.VALIDATED)

    def _row(self) -> dict[str, float]:
        learn = self.learn
        valid = {f"valid_{name}": value for name, value in learn.results.items()} if learn.validates else {}
        seconds = time.perf_counter() - learn.epoch_began
        trained = learn.trainer.state.metrics
        return {
            "epoch": learn.epoch,
            "step": learn.step,
            "train_loss": trained["loss"] if "loss" in trained else learn.train_loss.compute(),  # of an epoch cut short
            **valid,
            "lr": next(iter(rates_of(learn.opt)), math.nan if learn.lr is None else learn.lr),
            "seconds": of_main(seconds),  # the same on all ranks, as it can be monitored
        }
