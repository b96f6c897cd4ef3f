"""Parameter groups of a model, and learning-rate schedules that are made once optimizer and run length are known."""

import difflib
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

Options = Mapping[str, Any]  # Any: numbers, pairs and flags, each optimizer has its own
NORMS_OVER_SEVERAL_DIMENSIONS = (nn.LayerNorm, nn.RMSNorm)  # the parameters of all other norms are vectors


def param_groups(
    model: nn.Module, *, lr: float, weight_decay: float = 0.0, overrides: Mapping[str, Options] | None = None
) -> list[dict[str, Any]]:
    """The model's trainable parameters as groups for an optimizer, each parameter in exactly one.

    Biases and norms are never decayed, nor is anything else with fewer than two dimensions. Frozen parameters
    (``requires_grad`` False) are left out; one that several modules share is there once, and goes by all its names.

    Args:
        model: the groups hold its parameters themselves.
        lr: learning rate of all that no override speaks of.
        weight_decay: weight decay of all that may be decayed.
        overrides: options by the name of a submodule or a parameter, ``{"fc2": {"lr": 0.01}}``. Of several names that
            hold a parameter the longest decides alone. A weight decay for a submodule leaves its biases and norms
            alone; one for a bias by its full name holds.

    Raises:
        ValueError: an override that names nothing in the model or sets ``params``; a model with nothing to train.

    Warns:
        UserWarning: an override that names nothing trainable.

    Source: fastai's discriminative learning rates; nanoGPT's rule of what is decayed.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> for group in param_groups(model, lr=0.1, weight_decay=0.01, overrides={"2": {"lr": 0.5}}):
    ...     print(len(group["params"]), group["lr"], group["weight_decay"])
    1 0.1 0.01
    1 0.1 0.0
    1 0.5 0.01
    1 0.5 0.0
    """
    overrides = overrides or {}
    names_of, undecayed = _names_and_undecayed(model)
    _check_overrides(overrides, model, names_of)
    options_of_groups: list[dict[str, Any]] = []
    groups: list[list[nn.Parameter]] = []
    for parameter, names in names_of.items():
        if not parameter.requires_grad:
            continue
        key = max((key for key in overrides if _holds(key, names)), key=len, default=None)
        override = {} if key is None else overrides[key]
        options = {"lr": lr, "weight_decay": weight_decay, **override}
        if parameter in undecayed and not (key in names and "weight_decay" in override):
            options["weight_decay"] = 0.0
        if options not in options_of_groups:
            options_of_groups.append(options)
            groups.append([])
        groups[options_of_groups.index(options)].append(parameter)
    if not groups:
        raise ValueError(f"an optimizer needs parameters with requires_grad; {type(model).__name__} has none")
    return [{"params": group, **options} for group, options in zip(groups, options_of_groups, strict=True)]


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
    options: Options = field(default_factory=dict)

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
        ValueError: ``pct_start`` not between 0 and 1; when made, a rise of exactly one step.

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
        ValueError: a `LRSchedule` and an unknown number of steps.
        TypeError: anything that gives neither a scheduler nor a factor.

    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> build_scheduler(lambda optimizer: lr_scheduler.StepLR(optimizer, 30), optimizer, n_steps=None).step_size
    30
    """
    if isinstance(schedule, LRSchedule):
        if n_steps is None:
            raise ValueError(f"{schedule} needs the run's number of steps, so a training loader with a length")
        return schedule(optimizer, n_steps)
    if not callable(schedule) or isinstance(schedule, LRScheduler):
        raise TypeError(
            "a schedule is one_cycle(...), warmup_cosine(...), a function from the optimizer to its torch scheduler or "
            f"a function from the steps taken to a factor; got {schedule!r}"
        )
    try:
        made: Any = schedule(optimizer)  # type: ignore[arg-type]
    except TypeError as error:  # what lambda step: 0.9**step does to an optimizer
        made = _factor_at_start(schedule, error)
    if isinstance(made, LRScheduler):
        return made
    if not isinstance(made, (int, float)):
        raise TypeError(
            "a function for a schedule gives a torch scheduler of the optimizer, or a factor for the steps taken; "
            f"{schedule!r} gave {made!r}"
        )
    return lr_scheduler.LambdaLR(optimizer, schedule)  # type: ignore[arg-type]


def _factor_at_start(schedule: Callable[..., Any], error: TypeError) -> Any:
    try:
        return schedule(0)
    except TypeError:
        raise error from None  # it is no function of steps either: what it said of the optimizer counts


class OptimizerOptions:
    """How a fit gets its optimizer: an instance that is kept, or one made anew of parameters and rate.

    Args:
        model: whose parameters are moved.
        optimizer: an instance; None: one is made.
        lr: learning rate for the one that is made; None: its groups have their own.
        param_groups: a list of groups, or a function from the model to one; None: all parameters.

    Raises:
        ValueError: neither an instance nor a rate, or both; or an instance over tensors that are not the model's.
    """

    def __init__(self, model: nn.Module, optimizer: Any, lr: float | None, param_groups: Any):
        if optimizer is None and lr is None and param_groups is None:
            raise ValueError("a Learner needs lr, for opt_func, or optimizer, an instance; got neither")
        if optimizer is not None and lr is not None:
            raise ValueError("a Learner needs lr, for opt_func, or optimizer, an instance; got both")
        if optimizer is not None and param_groups is not None:
            raise ValueError("param_groups are for opt_func; the optimizer given has groups already: leave them out")
        self.model, self.optimizer, self.lr, self.param_groups = model, optimizer, lr, param_groups
        ours = {id(parameter) for parameter in model.parameters()}
        groups = getattr(optimizer, "param_groups", [])
        foreign = sum(id(parameter) not in ours for group in groups for parameter in group["params"])
        if foreign:
            raise ValueError(
                f"optimizer moves the model's parameters; {foreign} of its tensors are not among those of "
                f"{type(model).__name__}: make it from model.parameters()"
            )

    def make(self, opt_func: Callable[..., Any]) -> Any:
        """The optimizer of a fit: the instance, or ``opt_func(parameters, lr)``."""
        if self.optimizer is not None:
            return self.optimizer
        groups = self.model.parameters() if self.param_groups is None else self.param_groups
        if callable(groups):
            groups = groups(self.model)
        return opt_func(groups) if self.lr is None else opt_func(groups, self.lr)


def _one_cycle(
    optimizer: torch.optim.Optimizer, n_steps: int, *, max_lr: float | None, pct_start: float, **options: Any
) -> LRScheduler:
    if pct_start * n_steps == 1:  # torch 2.13 divides by zero
        raise ValueError(
            f"one_cycle cannot rise in exactly one step, as pct_start={pct_start!r} of {n_steps!r} steps would: "
            f"give another pct_start"
        )
    highest = [group["lr"] for group in optimizer.param_groups] if max_lr is None else max_lr
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


def _holds(key: str, names: list[str]) -> bool:
    """Whether a parameter of these names is the one, or lies in the submodule, that the key names."""
    return any(name == key or name.startswith(f"{key}.") for name in names)


def _names_and_undecayed(model: nn.Module) -> tuple[dict[nn.Parameter, list[str]], set[nn.Parameter]]:
    """All names of each parameter, in the order of the model, and the parameters that are never decayed."""
    names_of: dict[nn.Parameter, list[str]] = {}
    undecayed: set[nn.Parameter] = set()
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            names_of.setdefault(parameter, []).append(f"{prefix}.{name}" if prefix else name)
            if parameter.ndim < 2 or "bias" in name or isinstance(module, NORMS_OVER_SEVERAL_DIMENSIONS):
                undecayed.add(parameter)
    return names_of, undecayed


def _check_overrides(
    overrides: Mapping[str, Options], model: nn.Module, names_of: Mapping[nn.Parameter, list[str]]
) -> None:
    modules = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    known = modules + [name for names in names_of.values() for name in names]
    for key, override in overrides.items():
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            tops = ", ".join(repr(name) for name in known if "." not in name)
            way_out = f"did you mean {nearest[0]!r}?" if nearest else f"at the top it has {tops}"
            raise ValueError(f"an override names a submodule or a parameter of the model; {key!r} is none, {way_out}")
        if "params" in override:
            raise ValueError(f"an override sets options, its name says of which parameters; got 'params' for {key!r}")
        if not any(parameter.requires_grad and _holds(key, names) for parameter, names in names_of.items()):
            warnings.warn(f"the override of {key!r} has no effect: nothing trainable goes by that name", stacklevel=3)
