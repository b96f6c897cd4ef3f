"""Early stopping: end a fit whose monitored value no longer gets better."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

from ..arguments import is_whole
from ..callbacks import Callback
from ..learner_like import LearnerLike
from .best import Best, BestState, check_monitor
from .soundness import Soundness

__all__ = ["EarlyStopping"]


class EarlyStopping(Callback):
    """Ends the fit when the monitored value has not improved for ``patience`` epochs, and restores the best weights.

    After the fit ``learn.stop_reason`` says in one line why it ended, and Progress shows it. An epoch whose value is
    NaN, or whose weights have become NaN or infinite, is never the best. After an exception the weights stay as they
    are.

    Args:
        monitor: a key of a history row, such as "valid_loss" or "train_loss".
        mode: "min" if lower is better, "max" if higher is; "auto" is "min" for names with loss, error, mse, mae,
            perplexity, nll, wer and other words of that kind in them, else "max"; a name that does not tell is warned
            of.
        patience: how many epochs in a row without an improvement end the fit; at least 1.
        min_delta: an improvement has to be larger than this.
        relative: ``min_delta`` is a fraction of the best value.
        start_epoch: epochs before this one, counted from 0, are ignored.
        restore_best: at the end of every fit, stopped early or not, put the best epoch's weights back.

    Raises:
        ValueError: mode, patience or min_delta that make no sense; at ``before_fit`` an unknown monitor.

    Source: Keras' EarlyStopping; Ignite's, whose relative delta and NaN rules go wrong in 0.5.5.

    >>> EarlyStopping(monitor="valid_accuracy", patience=2).best.mode
    'max'
    """

    order = 40

    def __init__(
        self,
        monitor: str = "valid_loss",
        *,
        mode: Literal["auto", "min", "max"] = "auto",
        patience: int = 3,
        min_delta: float = 0.0,
        relative: bool = False,
        start_epoch: int = 0,
        restore_best: bool = True,
    ):
        if not is_whole(start_epoch) or start_epoch < 0:
            raise ValueError(f"start_epoch is an epoch, counted from 0; got {start_epoch!r}")
        self.monitor, self.start_epoch, self.restore_best = monitor, start_epoch, restore_best
        self.best = Best(monitor, mode=mode, patience=patience, min_delta=min_delta, relative=relative)
        self._fresh = self.best.state_dict()
        self._weights: dict[str, Any] | None = None
        self._best_epoch = 0
        self._soundness = Soundness()
        self.brings = (self._soundness,)

    def before_fit(self, learn: LearnerLike) -> None:
        """Look whether there will be such a value, and begin anew."""
        check_monitor(self.monitor, learn.monitors)
        self.load_state_dict({"best": self._fresh, "best_epoch": 0, "weights": None})

    def after_validate(self, learn: LearnerLike) -> None:
        """Compare this epoch's value with the best; keep its weights or count it as bad."""
        if learn.epoch < self.start_epoch or learn.outcome == "broken":
            return
        is_sound = not self._soundness.first_bad(learn.model)  # NaN weights can have a good accuracy
        if self.best.update(learn.history[-1][self.monitor] if is_sound else math.nan):
            self._best_epoch = learn.epoch
            if self.restore_best:
                self._weights = copy.deepcopy(learn.model.state_dict())
        elif self.best.exhausted:
            since = "been NaN"
            if self.best.best is not None:
                since = f"not been better than {self.best.best:.6g} (epoch {self._best_epoch + 1})"
            learn.stop(f"early stopping: {self.monitor} has {since}, with patience {self.best.patience}")

    def cleanup_fit(self, learn: LearnerLike, error: BaseException | None) -> None:
        """Put the best epoch's weights back, unless the fit ended by an exception."""
        if error is None and self._weights is not None:
            learn.model.load_state_dict(self._weights)
        self._weights = None

    def state_dict(self) -> dict[str, Any]:
        """The best value, its epoch and weights, and how many epochs came since."""
        return {"best": self.best.state_dict(), "best_epoch": self._best_epoch, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict``."""
        best: BestState = state["best"]
        self.best.load_state_dict(best)
        self._best_epoch, self._weights = state["best_epoch"], state["weights"]
