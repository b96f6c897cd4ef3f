"""Validation: what follows each epoch of training, up to VALIDATED."""

from __future__ import annotations

import math
import time
from typing import Any

from ignite.engine import Events

from .distributed import of_main
from .engines import always
from .events import Scope, TrainEvents

__all__ = ["Validation"]


class Validation:
    """Runs the evaluator when the trainer's epoch is over, adds the epoch's row to the history, then fires VALIDATED.

    It is attached to the trainer's EPOCH_COMPLETED, after the callbacks and before everybody else's handlers; they see
    the validation's results. VALIDATED comes once they have run.

    Args:
        learn: the Learner.
    """

    def __init__(self, learn: Any):
        self.learn = learn

    def run(self) -> None:
        """Evaluate and add the row; VALIDATED is announced by a handler that is attached last, for this once."""
        learn = self.learn
        learn.in_training_epoch = False
        if learn.ranks is not None:
            learn.ranks.agree(learn.trainer)
            learn.ranks.share_buffers()
        if learn.trainer.cancelled == Scope.FIT or not learn.in_fit:
            return
        if learn.validates:
            learn.validating = True
            learn.results = learn.run_evaluator(learn.valid_dl)
            learn.validating = False
        if learn.trainer.cancelled != Scope.FIT:
            learn.history.append(self._row())
            learn.trainer.add_event_handler(Events.EPOCH_COMPLETED, always(self.announce))

    def run_after_cut(self, iter_counter: int) -> None:
        """A training epoch that was cut short is validated too; without EPOCH_COMPLETED to come, VALIDATED is now."""
        if self.learn.trainer.should_terminate_single_epoch == "skip_epoch_completed":
            self.run()
            self.announce()

    def announce(self) -> None:
        """Fire VALIDATED, unless the fit was cancelled."""
        self.detach()
        trainer = self.learn.trainer
        if self.learn.ranks is not None:
            self.learn.ranks.agree(trainer)
        if trainer.cancelled != Scope.FIT and self.learn.in_fit:
            trainer.cancelled = 0
            trainer.fire_event(TrainEvents.VALIDATED)

    def detach(self) -> None:
        """Take away an announcement that did not come to be."""
        trainer = self.learn.trainer
        if trainer.has_event_handler(self.announce, Events.EPOCH_COMPLETED):
            trainer.remove_event_handler(self.announce, Events.EPOCH_COMPLETED)

    def _row(self) -> dict[str, float]:
        learn = self.learn
        valid = {f"valid_{name}": value for name, value in learn.results.items()} if learn.validates else {}
        seconds = time.perf_counter() - learn.epoch_began
        groups = getattr(learn.opt, "param_groups", None)
        return {
            "epoch": learn.epoch,
            "step": learn.step,
            "train_loss": learn.trainer.state.metrics.get("loss", math.nan),
            **valid,
            "lr": float(groups[0]["lr"]) if groups else learn.lr,
            "seconds": of_main(seconds),  # the same on all ranks, as it can be monitored
        }
