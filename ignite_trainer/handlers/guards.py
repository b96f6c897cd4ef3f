"""Guards: end or repair a fit that has gone bad, or that has had its time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ..arguments import is_number, is_whole
from ..callbacks import Callback
from ..events import CancelBatchException
from ..learner_like import LearnerLike
from ..loss_size import counted, ignored_label
from .soundness import bad_tensors

__all__ = ["NaNGuard", "TimeLimit"]


class NaNGuard(Callback):
    """Looks for a loss that is NaN or infinite, and names the epoch, the batch and the first parameter that went bad.

    Losses are gathered on their device and looked at every so many steps, which waits for the device.

    Args:
        action: "stop": end the fit in order; "raise": FloatingPointError; "skip": leave out each batch whose loss or
            gradients are not finite, before the step, and put back the buffers, such as running statistics, that its
            forward has changed (this looks at every batch); with "fp16" gradients are left to the scaler.
        every_steps: optimizer steps between two looks, for "stop" and "raise"; "skip" looks at every batch.

    Raises:
        ValueError: another action, or ``every_steps`` < 1.

    >>> NaNGuard("skip").every_steps
    1
    """

    order = 30

    def __init__(self, action: Literal["stop", "skip", "raise"] = "stop", *, every_steps: int = 50):
        if action not in ("stop", "skip", "raise"):
            raise ValueError(f"action is 'stop', 'skip' or 'raise'; got {action!r}")
        if not is_whole(every_steps) or every_steps < 1:
            raise ValueError(f"every_steps is the number of steps between two looks, at least 1; got {every_steps!r}")
        self.action, self.every_steps = action, 1 if action == "skip" else every_steps
        self.skipped = 0
        self.found: tuple[int, int] | None = None  # epoch and batch of the first loss that was not finite
        self._losses: list[tuple[int, int, Tensor]] = []
        self._buffers: dict[tuple[str, str], Tensor] = {}
        self._may_be_of_none = False
        self._leave_out(*(("after_batch", "after_epoch") if action == "skip" else ("before_batch", "after_backward")))

    def before_fit(self, learn: LearnerLike) -> None:
        """Begin anew."""
        self._losses, self.skipped, self.found = [], 0, None
        self._may_be_of_none = ignored_label(learn.loss_func) is not None

    def before_batch(self, learn: LearnerLike) -> None:
        """Copy the buffers of model and loss, for a batch that will be left out."""
        if learn.engine.training and self.action == "skip":
            self._buffers = {name: buffer.clone() for name, buffer in _buffers_of(learn)}

    def after_batch(self, learn: LearnerLike) -> None:
        """Gather the loss; look at those that there are, when it is time."""
        if learn.engine.training and self.action != "skip":
            loss = learn.loss.detach()
            if self._may_be_of_none:  # of a batch of ignored labels alone it is NaN, and weighs nothing
                n = counted(learn.train_loss.size(learn.preds, learn.batch[1]))
                weighs = n > 0 if isinstance(n, Tensor) else loss.new_full((), n > 0, dtype=torch.bool)
                loss = loss.where(weighs, 0.0)
            self._losses.append((learn.epoch, learn.iter, loss))
            if len(self._losses) >= self.every_steps * learn.batches_in_step:
                self._look(learn)

    def after_epoch(self, learn: LearnerLike) -> None:
        """Look at the losses that are left."""
        self._look(learn)

    def after_fit(self, learn: LearnerLike) -> None:
        """Look at those of an epoch that was cut, before anything is saved of it."""
        self._look(learn)

    def cleanup_fit(self, learn: LearnerLike, error: BaseException | None) -> None:
        """Look at those of a fit that was cancelled."""
        if error is None:
            self._look(learn)

    def after_backward(self, learn: LearnerLike) -> None:
        """Leave out a batch whose loss or gradients are not finite."""
        if self.action != "skip":
            return
        parts = [learn.loss.detach()]
        if learn.scaler is None:  # which leaves out such gradients itself, and has to see them to find its scale
            parts += [_values(parameter.grad) for parameter in learn.model.parameters() if parameter.grad is not None]
        if not torch.stack([part.isfinite().all() for part in parts]).all():  # waits for the device
            self.skipped += 1
            learn.opt.zero_grad()
            for name, buffer in _buffers_of(learn):
                buffer.copy_(self._buffers.get(name, buffer))
            raise CancelBatchException

    def _look(self, learn: LearnerLike) -> None:
        losses, self._losses = self._losses, []
        if not losses:
            return
        bad = ~torch.stack([loss for _, _, loss in losses]).isfinite()
        if not bad.any():  # waits for the device
            return
        epoch, batch, loss = losses[int(bad.nonzero()[0])]
        self.found = epoch, batch
        name = next(iter(bad_tensors(learn.model)), "")
        kind = "parameter" if name in dict(learn.model.named_parameters()) else "buffer"
        text = f"the loss became {loss.item()} in epoch {epoch}, batch {batch} (from 0); " + (
            f"the first {kind} that is not finite is {name}" if name else "all parameters are finite"
        )
        if self.action == "raise":
            raise FloatingPointError(text)
        learn.stop(f"NaN guard: {text}", outcome="broken")


class TimeLimit(Callback):
    """Ends the fit in order once it has run so long, after the batch that is running, or the window of batches.

    Args:
        seconds: from the fit's start, above 0.

    Raises:
        ValueError: ``seconds`` is not above 0.

    >>> TimeLimit(60).seconds
    60
    """

    order = 80

    def __init__(self, seconds: float):
        if not (is_number(seconds) and seconds > 0):
            raise ValueError(f"seconds is how long a fit may take, above 0; got {seconds!r}")
        self.seconds, self._end = seconds, math.inf

    def before_fit(self, learn: LearnerLike) -> None:
        """Start the clock."""
        self._end = time.monotonic() + self.seconds

    def after_batch(self, learn: LearnerLike) -> None:
        """Look at the clock."""
        if learn.in_fit and learn.engine.training and time.monotonic() > self._end and learn.at_step_boundary:
            self._stop(learn, f"in epoch {learn.epoch + 1}, batch {learn.iter + 1}")

    def after_validate(self, learn: LearnerLike) -> None:
        """Look at the clock, for epochs without a batch at which a fit may end."""
        if time.monotonic() > self._end and not learn.ending:
            self._stop(learn, f"after epoch {learn.epoch + 1}")

    def _stop(self, learn: LearnerLike, where: str) -> None:
        learn.stop(f"time limit: {self.seconds:g} seconds are over {where}", outcome="resumable")


def _buffers_of(learn: LearnerLike) -> Iterator[tuple[tuple[str, str], Tensor]]:
    for part, module in (("model", learn.model), ("loss", learn.loss_func)):
        if isinstance(module, torch.nn.Module):
            yield from (((part, name), buffer) for name, buffer in module.named_buffers() if not is_lazy(buffer))


def _values(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient
