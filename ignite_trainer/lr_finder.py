"""The learning-rate finder: a short training in which the rate grows until the loss explodes, and what it tells."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from .arguments import is_whole
from .callbacks import Callback
from .epochs import rereadable
from .events import CancelFitException
from .learner import Learner
from .trial import check_learner, ratios, set_lr, trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LRFinder", "LRSweep"]

_SPREAD = 3.0  # steps: the losses are averaged with a bell of this standard deviation
_REACH = 9  # steps on either side
_EXPLODED = 4.0  # times the best loss so far


class LRSweep(NamedTuple):
    """What a finder saw.

    Args:
        lrs: the rate of each step, of the first parameter group.
        losses: the loss of each step's batches, before the step.
        smoothed: the losses averaged over neighbouring steps.
        suggestion: the rate at which the loss fell fastest per decade; None where it fell no further than noise.
        best: the rate with the lowest smoothed loss: from about there on training breaks.
    """

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None
    best: float

    def plot(self) -> Figure:
        """Loss over rate, the suggestion marked: a matplotlib Figure, to save or to show in a notebook."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.lrs, self.losses, color="C0", alpha=0.3)
        axes.plot(self.lrs, self.smoothed, color="C0")
        axes.set(xscale="log", xlabel="lr", ylabel="loss")
        axes.grid(alpha=0.3)
        if self.suggestion is not None:
            axes.axvline(self.suggestion, color="C1", linestyle="--", label=f"{self.suggestion:.2g}")
            axes.legend()
        return figure


class LRFinder:
    """Trains for some steps with a rate that grows from tiny to huge, and suggests one; nothing of it remains.

    Model, optimizer, loaders, random generators and the learner are put back as they were, also after an exception. The
    learner's own callbacks and handlers take no part. It starts from the present weights and, if the learner was given
    an optimizer, from that one's state. The loader is read again as often as the steps need.

    Args:
        learn: a learner that is not in a fit; what its own ``step`` moves besides ``learn.opt`` is not put back.
        start_lr: the first rate, of the first parameter group; the others keep their ratio to it.
        end_lr: the last rate, if the loss has not exploded before.
        n_steps: optimizer steps, at least 10.
        cbs: callbacks that take part, such as one that mixes the batch.

    Raises:
        ValueError: the rates do not grow, too few steps; in ``run``, an optimizer without ``param_groups``.
        TypeError: no learner; in ``run``, a loader that can be read only once.
        RuntimeError: in ``run``, a fit is running.

    Source: Smith, Cyclical Learning Rates (2015), the range test; fastai's lr_find for the bounds and the end.

    >>> import torch
    >>> from torch import nn
    >>> x = torch.linspace(-1, 1, 64).view(-1, 1)
    >>> learn = Learner(nn.Linear(1, 1), ([(x, 3 * x)], None), nn.MSELoss(), lr=0.1, device="cpu")
    >>> sweep = LRFinder(learn).run()
    >>> 0.01 < sweep.suggestion < 3, learn.step, sweep.plot().axes[0].get_xscale()
    (True, 0, 'log')
    """

    def __init__(
        self,
        learn: Learner,
        *,
        start_lr: float = 1e-7,
        end_lr: float = 10.0,
        n_steps: int = 100,
        cbs: Iterable[Any] = (),
    ):
        check_learner(learn, "LRFinder")
        if not 0 < start_lr < end_lr:
            raise ValueError(f"the rates grow from start_lr, above 0, to end_lr; got {start_lr!r} and {end_lr!r}")
        if not is_whole(n_steps) or n_steps < 10:
            raise ValueError(f"n_steps is the number of rates that are tried, at least 10; got {n_steps!r}")
        self.learn, self.n_steps, self.cbs = learn, n_steps, list(cbs)
        self.lrs = [start_lr * (end_lr / start_lr) ** (i / (n_steps - 1)) for i in range(n_steps)]

    def run(self) -> LRSweep:
        """Train with growing rates; the result has ``suggestion``, ``best``, ``lrs``, ``losses`` and ``plot()``."""
        sweep = _Sweep(self.lrs)
        with trial(self.learn, rereadable(self.learn.train_dl), cbs=[*self.cbs, sweep]) as twin:
            twin.fit(self.n_steps)  # epochs: of a batch or more each
        smoothed = _smoothed(sweep.losses)
        if not smoothed:
            return LRSweep([], [], [], None, math.nan)
        lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
        suggestion = _steepest(sweep.tried, sweep.losses, smoothed)
        return LRSweep(sweep.tried, sweep.losses, smoothed, suggestion, sweep.tried[lowest])


class _Sweep(Callback):
    """Sets the rate before each step, notes the loss, and ends the fit where it has exploded."""

    order = 1000

    def __init__(self, lrs: list[float]):
        self.lrs = lrs
        self.losses: list[float] = []
        self.tried: list[float] = []
        self._pending: list[float] = []
        self._done, self._lowest = 0, math.inf

    def before_fit(self, learn: Learner) -> None:
        self._ratios = ratios(learn.opt)

    def before_batch(self, learn: Learner) -> None:
        self._note(learn)  # a window that was stepped at an epoch's end
        set_lr(learn.opt, self.lrs[learn.step], self._ratios)

    def after_batch(self, learn: Learner) -> None:
        self._pending.append(float(learn.loss.detach()))  # waits for the device: it has to know when to stop
        self._note(learn)

    def _note(self, learn: Learner) -> None:
        """Once a step is done, keep the mean loss of its batches."""
        if learn.step == self._done:
            return
        step, self._done = self._done, learn.step
        if self._pending:
            self._keep(self.lrs[step], math.fsum(self._pending) / len(self._pending))
            self._pending.clear()
        if learn.step >= len(self.lrs):
            raise CancelFitException

    def _keep(self, lr: float, loss: float) -> None:
        if not math.isfinite(loss):
            raise CancelFitException
        self.tried.append(lr)
        self.losses.append(loss)
        recent = _smoothed(self.losses[-_REACH - 1 :])[-1]
        self._lowest = min(self._lowest, recent)
        if recent > self._lowest + (_EXPLODED - 1) * abs(self._lowest):
            raise CancelFitException


def _smoothed(losses: list[float]) -> list[float]:
    """The mean of each and its neighbours, weighted with a bell: no lag, as a running mean would have."""
    bell = [math.exp(-0.5 * (i / _SPREAD) ** 2) for i in range(_REACH + 1)]
    means = []
    for i in range(len(losses)):
        places = range(max(0, i - _REACH), min(len(losses), i + _REACH + 1))
        weights = [bell[abs(i - place)] for place in places]
        means.append(math.fsum(w * losses[place] for w, place in zip(weights, places, strict=True)) / sum(weights))
    return means


def _steepest(lrs: list[float], losses: list[float], smoothed: list[float]) -> float | None:
    """The rate at which the smoothed loss falls fastest from step to step, on its way from the plateau to the lowest.

    None where it falls no further than the noise of the batches might. Measured, as a multiple of the noise: at most
    2.4 where a hundred losses are noise alone, 7 to 27 on Fashion-MNIST.
    """
    lowest = smoothed.index(min(smoothed))
    before = range(1, lowest)
    if not before:
        return None
    first = math.fsum(losses[: min(10, lowest)]) / min(10, lowest)
    fall = first - smoothed[lowest]
    pairs = list(zip(losses, smoothed, strict=True))[: lowest + 1]  # behind it the loss explodes
    noise = math.sqrt(math.fsum((a - b) ** 2 for a, b in pairs) / len(pairs))
    if fall <= 3 * noise:
        return None
    on_plateau = max((i for i in range(lowest) if smoothed[i] > first - 0.1 * fall), default=0)
    falling = [i for i in before if i > on_plateau] or [lowest - 1]
    return lrs[max(falling, key=lambda i: smoothed[i - 1] - smoothed[i + 1])]
