"""Gradients of several ranks: each has those of its share of a batch, the step is made with the sum of all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .collectives import sum_in_place
from .events import Scope, TrainEvents
from .gradients import GradientWindow
from .loss_size import LossSize

__all__ = ["RankWindow", "sum_gradients"]


class RankWindow(GradientWindow):
    """A ``GradientWindow`` whose batches are spread over ranks: Σ gradients·n of all ranks, divided by their Σ n.

    So the step equals that of one process on the same global batches up to float rounding, whatever the shares. Every
    rank comes to the end of every batch, by ``step`` or by ``pass_over``. A batch that was cancelled on one rank, or of
    which it has no sample, adds nothing there; a batch that was cancelled on all ranks is not counted.

    ``DistributedDataParallel`` is not used: it averages over ranks, not samples, and waits for ever where ranks run
    different numbers of backwards.

    Args:
        n_batches, size, clip_norm, scaler: as for ``GradientWindow``.
        ranks: what they tell each other, a ``Ranks``.
    """

    def __init__(self, n_batches: int, size: LossSize, clip_norm: float | None, scaler: Any, ranks: Any):
        super().__init__(n_batches, size, clip_norm, scaler)
        self.ranks, self.weighs = ranks, True
        self.passed = False  # whether this batch's boundary lies behind

    def begin_fit(self) -> None:
        """As in one process; the scaler has its scale from here on, also where the first batch has no sample."""
        super().begin_fit()
        if self.scaler is not None:
            self.scaler.scale(torch.zeros((), device=self.ranks.learn.device))

    def reset(self) -> None:
        """Forget an open window; its gradients are dropped before the next backward."""
        super().reset()
        self._anywhere: list[float] | None = None

    def step(self, loop: Any) -> bool:
        """Count the batch whose backward is done; move the weights if the window is full. Returns whether it did."""
        return self._close_batch(loop, counts=True)

    def pass_over(self, loop: Any) -> None:
        """End a batch that has not come to its step here: the weights move with the other ranks' gradients."""
        if self.passed:
            return
        self._drop_uncounted(loop)
        if self._close_batch(loop, counts=False):
            loop.step += 1
            loop.engine.cancelled = 0
            loop.engine.fire_event(TrainEvents.STEPPED)
            loop.engine.cancelled = max(loop.engine.cancelled, Scope.BATCH)  # the rest of the batch stays silent
            loop.opt.zero_grad()

    def flush(self, loop: Any) -> None:
        """Step an open window, at an epoch's end, unless the loader's end has cancelled it on a rank."""
        self.ranks.agree(loop.engine)
        super().flush(loop)

    def _close_batch(self, loop: Any, *, counts: bool) -> bool:
        self._kept, self.passed = None, True
        full = self.done + 1 == self.n_batches
        there = [parameter.grad is not None for parameter in _trainable(loop.model)] if full else []
        n_counting, *anywhere = self.ranks.agree(loop.engine, [counts, *there])
        if loop.engine.cancelled >= Scope.EPOCH or not n_counting:
            return False
        if counts:
            self.n = self.n + self._n_next  # type: ignore[assignment]
        self.done += 1
        if not full:
            return False
        self._anywhere = anywhere
        return self._move(loop)

    def _move(self, loop: Any) -> bool:
        parameters = _trainable(loop.model)
        if self._anywhere is None:  # an open window at an epoch's end
            self._anywhere = self.ranks.agree(loop.engine, [parameter.grad is not None for parameter in parameters])
        used = [parameter for parameter, ranks in zip(parameters, self._anywhere, strict=True) if ranks]
        if used:
            self.n = sum_gradients(used, self.n)  # type: ignore[assignment]
        return super()._move(loop)


def sum_gradients(parameters: list[Tensor], n: int | Tensor) -> Tensor:
    """Make each gradient the sum of all ranks', one reduction for each type; a rank without one adds nothing.

    Half precision is summed in float32. Nothing waits for the device.

    Args:
        parameters: those of which a rank has a gradient, the same on all ranks, at least one.
        n: the weight of this rank's gradients.

    Returns:
        Σ n, a 0-d tensor on the device.

    Raises:
        TypeError: a sparse gradient.
    """
    alike: dict[Any, list[Tensor]] = {}
    for parameter in parameters:
        wide = torch.float32 if parameter.dtype in (torch.float16, torch.bfloat16) else parameter.dtype
        alike.setdefault((parameter.device, wide), []).append(parameter)
    n_sum: Tensor | None = None
    for (device, wide), group in alike.items():
        parts = [_flat_gradient(parameter, wide) for parameter in group]
        if n_sum is None:
            parts.append(torch.as_tensor(n, device=device).detach().to(wide).reshape(1))
        flat = torch.cat(parts)
        sum_in_place(flat)
        sums = torch.split(flat, [part.numel() for part in parts])
        for parameter, part in zip(group, sums[: len(group)], strict=True):
            parameter.grad = part.view(parameter.shape).to(parameter.dtype)
        if n_sum is None:
            n_sum = sums[-1].real[0] if wide.is_complex else sums[-1][0]
    assert n_sum is not None
    return n_sum


def _trainable(model: Any) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _flat_gradient(parameter: Tensor, wide: torch.dtype) -> Tensor:
    if parameter.grad is None:
        return torch.zeros(parameter.numel(), dtype=wide, device=parameter.device)
    if parameter.grad.is_sparse:
        raise TypeError(
            "gradients are summed over ranks as dense tensors; got a sparse one: make the layer with sparse=False"
        )
    return parameter.grad.detach().reshape(-1).to(wide)
