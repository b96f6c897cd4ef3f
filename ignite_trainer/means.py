"""Sums that are divided at an epoch's end: on the host for values on the CPU, else on their device, without a wait."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

import torch
from ignite.metrics import Metric
from torch import Tensor

from .collectives import sum_float64
from .loss_size import Marked, counted

__all__ = ["AT_ONCE", "KEPT", "Ratio", "WeightedMean"]

AT_ONCE = 64
"""So many batches' numbers are added up at once on a device."""

KEPT = 4096
"""Of a batch of up to so many samples it is kept there which of them count, or are right; of a larger one, how many."""


class Ratio(Metric):
    """A metric that is one sum divided by another, over all ranks."""

    def reset(self) -> None:
        """Forget all batches."""
        self.of_all_ranks: tuple[float, float] | None = None  # where a learner has added up several metrics at once

    def sums(self) -> tuple[float, float]:
        """What this rank has added up."""
        raise NotImplementedError

    def compute(self) -> float:
        """The mean so far, NaN where nothing was added; waits for the device, and every rank has to call it."""
        total, n = self.of_all_ranks or sum_float64(torch.tensor(self.sums(), dtype=torch.float64)).tolist()
        return total / n if n else math.nan


class WeightedMean(Ratio):
    """Σ value·n / Σ n in float64. Values on the CPU are summed on the host, others on their device, read at the end.

    A device's numbers are added up 64 at a time, because starting a kernel takes the host 5 to 20 µs, and six for each
    batch were a tenth of a small model's step. mps has no float64: there the sum is a float32, and what its additions
    round off is kept in a second one.
    """

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self._total: float | Tensor = 0.0
        self._n: int | float | Tensor = 0
        self._rounded_off: float | Tensor = 0.0
        self._later: list[tuple[Tensor, int | float | Tensor]] = []

    def add(self, value: Tensor, n: float | Tensor | Marked) -> None:
        """Add a batch: its mean, a 0-d tensor, and how many samples that stands for."""
        if value.is_cpu:  # there is no device to wait for: 0.3 µs, where tensors take 3
            n = n if isinstance(n, (int, float)) else counted(n).item()  # type: ignore[union-attr]
            if n:  # a batch of ignored labels alone has NaN for its loss
                self._total += value.item() * n
            self._n += n
        elif value.device.type == "mps":
            self.add_compensated(value, counted(n))
        else:
            self.add_later(value, n)

    def add_later(self, value: Tensor, n: float | Tensor | Marked) -> None:
        """Keep a batch where it lies until there are as many as are added up at once; nothing waits for a device."""
        if isinstance(n, Marked):
            alike = not self._later or getattr(self._later[-1][1], "shape", None) == n.marks.shape
            n = n.marks if alike and n.marks.numel() <= KEPT else n.marks.sum()  # others could not be stacked
        elif isinstance(n, Tensor) and n.is_cpu:
            n = n.item()
        elif isinstance(n, Tensor) and (n.ndim or n._is_view()):
            n = n.reshape(()).clone()
        self._later.append((value.detach().to(torch.float64, copy=True), n))  # its place may be used again
        if len(self._later) >= AT_ONCE:
            self._total, self._n = self._added_up()
            self._later = []

    def _added_up(self) -> tuple[float | Tensor, float | Tensor]:
        """Σ value·n and Σ n including the kept batches, which stay kept: so looking at a mean changes no bit of it."""
        total, n_samples = self._total, self._n
        for n, batches in groupby(self._later, lambda batch: None if isinstance(batch[1], Tensor) else batch[1]):
            values, sizes = zip(*batches, strict=True)
            if n is None:
                weights = _numbers(sizes)
                total = total + torch.where(weights > 0, torch.stack(values) * weights, 0.0).sum()
                n_samples = n_samples + weights.sum()
            elif n:
                total = total + torch.stack(values).sum() * n
                n_samples = n_samples + n * len(values)
        return total, n_samples

    def add_compensated(self, value: Tensor, n: float | Tensor) -> None:
        """Add a batch in float32, and keep what that rounds off of the sum. Source: Knuth's two-sum."""
        self._n = self._n + n  # of another type than the last, it may be
        if not isinstance(n, Tensor) and not n:
            return
        weighted = value.detach().to(torch.float32) * n
        if isinstance(n, Tensor):
            weighted = torch.where(n > 0, weighted, 0.0)
        total = self._total + weighted
        added = total - self._total
        self._rounded_off += (self._total - (total - added)) + (weighted - added)
        self._total = total

    def state(self) -> list[Any]:
        """What was added so far, as plain data."""
        values, sizes = zip(*self._later, strict=True) if self._later else ((), ())
        sizes = tuple(n.sum() if isinstance(n, Tensor) and n.dtype is torch.bool else n for n in sizes)
        of_tensors = bool(sizes) and all(isinstance(n, Tensor) for n in sizes)
        later = [torch.stack(values) if values else [], torch.stack(sizes) if of_tensors else list(sizes)]
        return [self._total, self._n, self._rounded_off, *later]

    def load(self, state: list[Any], device: torch.device) -> None:
        """Go on from a ``state``, on this device."""

        def moved(part: Any) -> Any:
            return part.to(device) if isinstance(part, Tensor) else part

        self._total, self._n, self._rounded_off = map(moved, (*state, 0.0)[:3])  # two parts for other numbers of ranks
        self._later = [(moved(value), moved(n)) for value, n in zip(*state[3:], strict=True)]

    def sums(self) -> tuple[float, float]:
        """Σ value·n and Σ n as numbers; waits for the device."""
        total, n = self._added_up()
        if not isinstance(total, Tensor):
            return total, float(n)
        parts = [torch.as_tensor(part).to(total) for part in (total, self._rounded_off, n)]
        added, rounded_off, n_samples = torch.stack(parts).tolist()  # one wait
        return added + rounded_off, n_samples if isinstance(n, Tensor) else float(n)


def _numbers(sizes: tuple[Tensor, ...]) -> Tensor:
    """Numbers, and of marks how many are True, in float64; neighbours of one shape and type are read together."""
    alike = [torch.stack(tuple(group)) for _, group in groupby(sizes, lambda n: (n.shape, n.dtype))]
    return torch.cat([stacked.reshape(len(stacked), -1).sum(dim=1).to(torch.float64) for stacked in alike])
