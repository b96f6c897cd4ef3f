"""Overfitting one batch: a model, loss and optimizer that are wired rightly can learn that by heart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .arguments import is_whole
from .callbacks import Callback
from .epochs import first_batch
from .learner import Learner
from .nests import map_leaves
from .trial import check_learner, ratios, set_lr, trial

__all__ = ["OverfitBatch", "OverfitLosses"]


class OverfitLosses(NamedTuple):
    """The losses of a batch that was trained on again and again.

    Args:
        losses: before each optimizer step.
        first: the first of them.
        last: the mean of the last tenth.
    """

    losses: list[float]
    first: float
    last: float

    @property
    def fell(self) -> bool:
        """Whether at most half of the first loss is left; not where a loss is no number."""
        return self.last <= 0.5 * self.first if self.first >= 0 else self.last < self.first


class OverfitBatch:
    """Trains on one batch for some steps, to see whether it can be learnt at all; nothing of it remains.

    Model, optimizer, loaders, random generators and the learner are put back as they were, also after an exception. The
    learner's own callbacks and handlers take no part.

    Args:
        learn: a learner that is not in a fit; what its own ``step`` moves besides ``learn.opt`` is not put back.
        n_steps: optimizer steps, at least 1.
        batch: as the loader gives it; None: the training loader's first.
        lr: of the first parameter group, the others keep their ratio to it; None: the learner's own.
        cbs: callbacks that take part, such as one that turns the batch into what the loss wants.

    Raises:
        ValueError: ``n_steps`` < 1; in ``run``, what ``fit`` says of a batch that does not fit.
        TypeError: no learner; in ``run``, a loader that can be read only once.
        RuntimeError: in ``run``, a fit is running.

    Source: Karpathy, A Recipe for Training Neural Networks (2019).

    >>> from torch import nn
    >>> batches = [(torch.eye(4), torch.arange(4))]
    >>> learn = Learner(nn.Linear(4, 4), (batches, None), nn.CrossEntropyLoss(), lr=1.0, device="cpu")
    >>> seen = OverfitBatch(learn, n_steps=50).run()
    >>> seen.fell, len(seen.losses), learn.step
    (True, 50, 0)
    """

    def __init__(
        self,
        learn: Learner,
        *,
        n_steps: int = 100,
        batch: Any = None,
        lr: float | None = None,
        cbs: Iterable[Any] = (),
    ):
        check_learner(learn, "OverfitBatch")
        if not is_whole(n_steps) or n_steps < 1:
            raise ValueError(f"n_steps is the number of optimizer steps, at least 1; got {n_steps!r}")
        self.learn, self.n_steps, self.batch, self.lr, self.cbs = learn, n_steps, batch, lr, list(cbs)

    def run(self) -> OverfitLosses:
        """Train on the batch; the result has ``losses``, ``first``, ``last`` and ``fell`` (to half or less)."""
        losses = _Losses(self.lr)
        batches = _Copies(self.n_steps * self.learn.accumulate)
        with trial(self.learn, batches, cbs=[*self.cbs, losses]) as twin:
            batches.batch = first_batch(self.learn.train_dl) if self.batch is None else self.batch
            twin.fit(1)
        values = torch.stack([*losses.by_step.values()]).tolist() if losses.by_step else [float("nan")]
        tail = values[-max(1, len(values) // 10) :]
        return OverfitLosses(values, values[0], sum(tail) / len(tail))


class _Copies:
    """A batch so many times, each a copy: callbacks and models may change what they are given."""

    def __init__(self, n_batches: int):
        self.n_batches, self.batch = n_batches, None

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.n_batches):
            yield map_leaves(self.batch, lambda part: part.clone() if isinstance(part, Tensor) else part)


class _Losses(Callback):
    """Notes the losses; sets the rate where one is given."""

    order = 1000

    def __init__(self, lr: float | None):
        self.lr = lr
        self.by_step: dict[int, Tensor] = {}

    def before_fit(self, learn: Learner) -> None:
        if self.lr is not None:
            set_lr(learn.opt, self.lr, ratios(learn.opt))

    def before_batch(self, learn: Learner) -> None:
        self._step = learn.step

    def after_batch(self, learn: Learner) -> None:
        self.by_step.setdefault(self._step, learn.loss.detach().float())
