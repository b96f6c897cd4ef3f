"""Between backward and step: windows of several batches, loss scaling, clipping."""

from __future__ import annotations

import copy
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import is_whole
from .events import Scope, TrainEvents
from .loss_size import LossSize, counted
from .nests import tensors_in

__all__ = ["GradientWindow", "check_gradient_options", "window_for"]


class GradientWindow:
    """Gathers the gradients of some batches for one optimizer step, scaled and clipped as asked for.

    With several batches the step equals that of one large batch: each loss is weighted by its number of samples n, and
    the sum of the gradients is divided by Σ n. A window holds ``n_batches`` batches that were not cancelled, all of one
    epoch: one that is open at the epoch's end is stepped; a cancelled epoch drops it.

    Args:
        n_batches: batches in a window, at least 1.
        size: (preds, y) → n of a batch.
        clip_norm: the gradients' total norm is cut to this before a step; None: not.
        scaler: a ``torch.amp.GradScaler`` for float16; None: none.

    Source: poutyne, the one framework whose last, short window is exact.
    """

    def __init__(self, n_batches: int, size: LossSize, clip_norm: float | None, scaler: Any):
        self.n_batches, self.size, self.clip_norm, self.scaler = n_batches, size, clip_norm, scaler
        self._new_scaler = copy.deepcopy(scaler)
        self.weighs = n_batches > 1  # by their n, the batches of a window
        self.reset()

    def begin_fit(self) -> None:
        """Forget what an earlier fit has left: one that raised after unscaling leaves its scaler in that state."""
        self.scaler = copy.deepcopy(self._new_scaler)
        self.reset()

    def reset(self) -> None:
        """Forget an open window; its gradients are dropped before the next backward."""
        self.done, self.n = 0, 0
        self._n_next: float | Tensor = 0
        self._kept: list[Tensor | None] | None = None

    def loss_for_backward(self, loop: Any) -> Tensor:
        """The loss whose gradients are to be added: times n where there are several batches, and scaled."""
        loss: Tensor = loop.loss
        if self.weighs:
            self._drop_uncounted(loop)
            self._n_next = counted(self.size(loop.preds, loop.batch[1]))
            loss = loss * self._n_next
            _mask_gradient_of_nothing(loop.preds, self._n_next)
        return loss if self.scaler is None else self.scaler.scale(loss)

    def step(self, loop: Any) -> bool:
        """Count the batch whose backward is done; move the weights if the window is full. Returns whether it did."""
        self._kept = None
        self.done, self.n = self.done + 1, self.n + self._n_next  # type: ignore[assignment]
        return self.done == self.n_batches and self._move(loop)

    def flush(self, loop: Any) -> None:
        """Step an open window, at an epoch's end."""
        if self.done and loop.engine.cancelled < Scope.EPOCH:
            self._drop_uncounted(loop)
            if self._move(loop):
                loop.step += 1
                loop.engine.cancelled = 0  # a last batch that was cancelled is over
                loop.engine.fire_event(TrainEvents.STEPPED)
            loop.opt.zero_grad()
        self.reset()

    def _move(self, loop: Any) -> bool:
        optimizer, parameters = loop.opt, [p for p in loop.model.parameters() if p.grad is not None]
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        if self.weighs:
            # a window of ignored labels alone moves nothing
            n = torch.where(self.n == 0, 1, self.n) if isinstance(self.n, Tensor) else self.n or 1
            for parameter in parameters:
                parameter.grad.div_(n)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        self.reset()
        if self.scaler is None:
            optimizer.step()
            return True
        scale = self.scaler.get_scale()
        self.scaler.step(optimizer)  # waits for the device, to see whether gradients are finite
        self.scaler.update()
        moved: bool = self.scaler.get_scale() >= scale
        if not moved:
            optimizer.zero_grad()
        return moved

    def _drop_uncounted(self, loop: Any) -> None:
        """Take out what a batch that was cancelled after its backward has left; remember the rest for the next."""
        parameters = list(loop.model.parameters())
        if self.done == 0:
            if any(parameter.grad is not None for parameter in parameters):  # some write p.grad.zero_()
                loop.opt.zero_grad()
        elif self._kept is not None:
            for parameter, grad in zip(parameters, self._kept, strict=True):
                parameter.grad = grad
        if self.done and loop.engine.backward_completed:  # only there a batch can be cancelled after its backward
            self._kept = [None if p.grad is None else p.grad.clone() for p in parameters]


def _mask_gradient_of_nothing(preds: Any, n: float | Tensor) -> None:
    """Class weights of 0 for a whole batch: torch's gradient of its loss is 0/0, in one large batch it would be 0."""
    if isinstance(n, Tensor) and not n.is_floating_point():  # ignored labels, whose gradient is 0
        return

    def masked(grad: Tensor) -> Tensor:
        return torch.where(n > 0, grad, 0.0) if isinstance(n, Tensor) else torch.zeros_like(grad)

    if isinstance(n, Tensor) or n == 0:
        for _, tensor in tensors_in(preds):
            if tensor.requires_grad and not tensor.is_leaf:
                tensor.register_hook(masked)  # type: ignore[no-untyped-call]


def check_gradient_options(accumulate: int, clip_norm: float | None) -> None:
    """Refuse what makes no sense.

    Raises:
        ValueError: a window of no batch, a norm that is not positive.
    """
    if not is_whole(accumulate) or accumulate < 1:
        raise ValueError(f"accumulate is the number of batches in a step, a whole number from 1; got {accumulate!r}")
    if clip_norm is not None and not (isinstance(clip_norm, (Real, Tensor)) and clip_norm > 0):
        raise ValueError(f"clip_norm is the largest norm of the gradients, above 0, or None for any; got {clip_norm!r}")


def window_for(
    device: torch.device, size: LossSize, *, precision: str, accumulate: int, clip_norm: float | None
) -> GradientWindow | None:
    """The window that these options need; None where gradients go straight from backward to step."""
    if accumulate == 1 and clip_norm is None and precision != "fp16":
        return None
    scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
    return GradientWindow(accumulate, size, clip_norm, scaler)
