"""Learning-rate schedules: laid out over a run, and made once its optimizer and its number of steps are known."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["LRSchedule", "build_scheduler", "one_cycle", "warmup_cosine"]


@dataclass(frozen=True)
class LRSchedule:
    """A learning-rate schedule laid out over the whole run, made once the optimizer and the run's steps are known.

    The scheduler is stepped after each optimizer step but the last: ``n_steps`` steps have ``n_steps`` rates.

    Args:
        name: what it is called in messages and in the run's config.
        make: from (optimizer, steps of the run, options by name) to the scheduler.
        options: what ``make`` is given beside the two.

    >>> halves = LRSchedule("in two halves", lambda optimizer, n_steps: lr_scheduler.StepLR(optimizer, n_steps // 2))
    >>> halves(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1), 10).step_size
    5
    """

    name: str
    make: Callable[..., LRScheduler]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, optimizer: torch.optim.Optimizer, n_steps: int) -> LRScheduler:
        """The scheduler of a run; at once it sets the optimizer to the first step's rates."""
        if n_steps < 1:
            raise ValueError(f"{self} is laid out over the steps of a run, at least 1; got {n_steps!r}")
        return self.make(optimizer, n_steps, **self.options)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"


def one_cycle(
    max_lr: float | None = None,
    *,
    pct_start: float = 0.3,
    cycle_momentum: bool = True,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> LRSchedule:
    """torch's `OneCycleLR` over the whole run: the rate rises to its highest, then falls to almost nothing.

    Args:
        max_lr: the highest rate, of every parameter group; None for each group's own, so that they stay different.
        pct_start: part of the run in which the rate rises, between 0 and 1.
        cycle_momentum: whether momentum (of Adam the first beta) goes from 0.95 to 0.85 and back meanwhile; an SGD made
            without momentum gets it too.
        div_factor: the first rate is the highest divided by this.
        final_div_factor: the last rate is the first divided by this.

    Raises:
        ValueError: ``pct_start`` not between 0 and 1, a rate or factor not above 0; when made, a rise of exactly one
            step.

    Source: Smith and Topin, Super-Convergence; fastai's fit_one_cycle.

    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> scheduler = one_cycle(0.5, div_factor=10)(optimizer, 100)
    >>> round(optimizer.param_groups[0]["lr"], 6)
    0.05
    """
    if not 0 < pct_start < 1:
        raise ValueError(
            f"pct_start is the part of the run in which the rate rises, between 0 and 1; got {pct_start!r}"
        )
    for name, value in (("max_lr", max_lr), ("div_factor", div_factor), ("final_div_factor", final_div_factor)):
        if value is not None and not (isinstance(value, (list, tuple)) or value > 0):
            raise ValueError(f"{name} is above 0; got {value!r}")
    options = {"max_lr": max_lr, "pct_start": pct_start, "cycle_momentum": cycle_momentum}
    options |= {"div_factor": div_factor, "final_div_factor": final_div_factor}
    return LRSchedule("one_cycle", _one_cycle, options)


def warmup_cosine(
    *, warmup_steps: int | None = None, warmup_fraction: float | None = None, final_factor: float = 0.0
) -> LRSchedule:
    """A linear rise to each group's rate, then half a cosine down; the groups keep their different rates.

    Step i of w warm-up steps has (i + 1) / (w + 1) of the rate: the first is not 0, the one after the warm-up is whole.

    Args:
        warmup_steps: optimizer steps before the whole rate, 0 for none; either this or ``warmup_fraction``.
        warmup_fraction: the same as a part of the run, at least 0 and below 1, rounded to whole steps.
        final_factor: part of the rate that is left when the run is over, 0 to 1.

    Raises:
        ValueError: both or neither warm-up, a value outside its range; when made, no step left after the warm-up.

    Source: Loshchilov and Hutter, SGDR; the warm-up as in nanoGPT.

    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> scheduler = warmup_cosine(warmup_steps=3)(optimizer, 100)
    >>> optimizer.param_groups[0]["lr"]
    0.025
    """
    if (warmup_steps is None) == (warmup_fraction is None):
        raise ValueError(
            f"warmup_cosine takes either warmup_steps or warmup_fraction; got {warmup_steps!r} and {warmup_fraction!r}"
        )
    if warmup_steps is not None and warmup_steps < 0:
        raise ValueError(f"warmup_steps is a number of steps, at least 0; got {warmup_steps!r}")
    if warmup_fraction is not None and not 0 <= warmup_fraction < 1:
        raise ValueError(f"warmup_fraction is a part of the run, at least 0 and below 1; got {warmup_fraction!r}")
    if not 0 <= final_factor <= 1:
        raise ValueError(f"final_factor is the part of the rate left at the end, 0 to 1; got {final_factor!r}")
    warmup = {"warmup_steps": warmup_steps} if warmup_fraction is None else {"warmup_fraction": warmup_fraction}
    return LRSchedule("warmup_cosine", _warmup_cosine, {**warmup, "final_factor": final_factor})


def build_scheduler(
    schedule: LRSchedule | Callable[[torch.optim.Optimizer], LRScheduler] | Callable[[int], float],
    optimizer: torch.optim.Optimizer,
    n_steps: int | None,
) -> LRScheduler:
    """The torch scheduler of an optimizer, which at once sets the first step's rates.

    Args:
        schedule: a `LRSchedule`; a function from the optimizer to a scheduler; or a function from the steps taken so
            far, 0 before the first, to a factor of each group's rate.
        optimizer: a torch optimizer.
        n_steps: optimizer steps of the whole run; None if unknown, which only a `LRSchedule` minds.

    Raises:
        ValueError: a `LRSchedule` and an unknown number of steps; a scheduler of another optimizer.
        TypeError: an optimizer without param_groups; anything that gives neither a scheduler nor a factor.

    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> build_scheduler(lambda optimizer: lr_scheduler.StepLR(optimizer, 30), optimizer, n_steps=None).step_size
    30
    """
    if not hasattr(optimizer, "param_groups"):
        raise TypeError(
            f"a schedule sets the rates in an optimizer's param_groups; {type(optimizer).__name__} has none: have it "
            "give those of its parts, or let a callback move them"
        )
    given: Any = schedule
    if given is one_cycle or given is warmup_cosine:
        name = given.__name__
        raise TypeError(f"{name} makes a schedule when it is called; got the function itself: give {name}(...)")
    if not callable(schedule) or isinstance(schedule, LRScheduler):
        raise TypeError(
            "a schedule is one_cycle(...), warmup_cosine(...), a function from the optimizer to its torch scheduler or "
            f"a function from the steps taken to a factor; got {schedule!r}"
        )
    if isinstance(schedule, LRSchedule):
        if n_steps is None:
            raise ValueError(f"{schedule} needs the run's number of steps, so a training loader with a length")
        return schedule(optimizer, n_steps)
    try:
        made: Any = schedule(optimizer)  # type: ignore[arg-type]
    except Exception as error:  # whatever lambda step: 0.9**step, or table[step], does to an optimizer
        made = _factor_at_start(schedule, error)
    if isinstance(made, LRScheduler):
        if getattr(made, "optimizer", optimizer) is not optimizer:
            raise ValueError(
                "a schedule moves the rates of the fit's optimizer, with which its function is called; "
                f"{schedule!r} gave {type(made).__name__} of another: make it of the one that comes"
            )
        return made
    if not isinstance(made, Real) and not (isinstance(made, Tensor) and made.numel() == 1):
        raise TypeError(
            "a function for a schedule gives a torch scheduler of the optimizer, or a factor for the steps taken; "
            f"{schedule!r} gave {made!r}"
        )
    return lr_scheduler.LambdaLR(optimizer, schedule)  # type: ignore[arg-type]


def _factor_at_start(schedule: Callable[..., Any], error: Exception) -> Any:
    try:
        return schedule(0)
    except Exception:
        raise error from None  # it is no function of steps either: what it said of the optimizer counts


def _one_cycle(
    optimizer: torch.optim.Optimizer, n_steps: int, *, max_lr: float | None, pct_start: float, **options: Any
) -> LRScheduler:
    if pct_start * n_steps == 1:  # torch 2.13 divides by zero
        raise ValueError(
            f"one_cycle cannot rise in exactly one step, as pct_start={pct_start!r} of {n_steps!r} steps would: "
            f"give another pct_start"
        )
    # where a cycle has ended before, its last rate stands in the group, and the highest beside it
    own = [group["max_lr"] if group["lr"] == group.get("min_lr") else group["lr"] for group in optimizer.param_groups]
    highest = own if max_lr is None else max_lr
    return lr_scheduler.OneCycleLR(optimizer, highest, total_steps=n_steps, pct_start=pct_start, **options)


def _warmup_cosine(
    optimizer: torch.optim.Optimizer,
    n_steps: int,
    *,
    warmup_steps: int = 0,
    warmup_fraction: float | None = None,
    final_factor: float,
) -> LRScheduler:
    n_warmup = warmup_steps if warmup_fraction is None else round(warmup_fraction * n_steps)
    if n_warmup >= n_steps:
        raise ValueError(f"warmup_cosine needs a step after the warm-up; got {n_warmup!r} of {n_steps!r} steps for it")

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / (n_warmup + 1)
        place = min((step - n_warmup) / (n_steps - n_warmup), 1.0)
        return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * place)) / 2

    return lr_scheduler.LambdaLR(optimizer, factor)
