"""The optimizer of a fit: the groups that a model's parameters are put into, and how it is made."""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .arguments import takes
from .user_warnings import warn_user

__all__ = [
    "OptimizerOptions",
    "begin_at_rates_set_since",
    "check_optimizer",
    "check_rate",
    "check_step",
    "check_tensors",
    "param_groups",
    "plain_rate",
    "rates_of",
    "warn_of_untrained",
]

Options = Mapping[str, Any]  # Any: numbers, pairs and flags, each optimizer has its own
NORMS_OVER_SEVERAL_DIMENSIONS = (nn.LayerNorm, nn.RMSNorm)  # the parameters of all other norms are vectors


def param_groups(
    model: nn.Module, *, lr: float, weight_decay: float = 0.0, overrides: Mapping[str, Options] | None = None
) -> list[dict[str, Any]]:
    """The model's trainable parameters as groups for an optimizer, each parameter in exactly one.

    Biases and norms are never decayed, nor is anything else with fewer than two dimensions. Frozen parameters
    (``requires_grad`` False) are left out; one that several modules share is listed once, and any of its names may be
    used in ``overrides``.

    Args:
        model: the groups hold its parameters themselves.
        lr: learning rate of every parameter without an override.
        weight_decay: weight decay of every parameter that may be decayed.
        overrides: options by the name of a submodule or a parameter, ``{"fc2": {"lr": 0.01}}``. Where several names
            match a parameter, only the longest counts. A weight decay given for a submodule does not apply to its
            biases and norms; one given for a bias by its full name does.

    Raises:
        ValueError: an override that names nothing in the model or sets ``params``; a model with nothing to train; lazy
            parameters and a weight decay.

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
    for name, parameter in model.named_parameters() if weight_decay else ():
        if is_lazy(parameter):
            raise ValueError(
                f"which weights are decayed goes by their shapes; {name} has none yet: call the model on a batch first"
            )
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


def check_step(optimizer: Any) -> None:
    """Refuse an optimizer that ``TrainStep`` cannot step.

    Raises:
        TypeError: its ``step`` has to be given something.
    """
    in_class = getattr(type(optimizer), "step", None)
    # a scheduler of torch 2.13 puts a wrapper in the method's place, which seems to need the optimizer itself
    if not takes(optimizer.step) and not (in_class is not None and takes(in_class, optimizer)):
        raise TypeError(
            f"step() of the optimizer is called without arguments; {type(optimizer).__name__}'s needs some: give "
            "Learner(step=...), a step of one's own, which calls learn.opt.step(closure)"
        )


def check_rate(lr: Any) -> None:
    """Refuse what is no rate; None is one that the groups have.

    Raises:
        TypeError: it is no number.
    """
    if hasattr(lr, "param_groups"):
        raise TypeError(f"lr is a number; got an optimizer, {type(lr).__name__}: give it as optimizer=...")
    if lr is not None and (isinstance(lr, str) or not hasattr(lr, "__float__")):
        raise TypeError(f"lr is a number, such as 1e-3; got {lr!r}")


def plain_rate(lr: Any) -> Any:
    """NumPy's numbers as Python's: configurations and checkpoints are plain data."""
    is_numpys = hasattr(lr, "item") and not isinstance(lr, Tensor) and getattr(lr, "size", 1) == 1
    return lr.item() if is_numpys else lr


def rates_of(optimizer: Any) -> list[float]:
    """The learning rate of each group of parameters; NaN of one without, as where an optimizer finds its own."""
    rates = [group.get("lr") for group in getattr(optimizer, "param_groups", None) or ()]
    return [math.nan if rate is None else float(rate) for rate in rates]


def begin_at_rates_set_since(optimizer: Any, rates_left: list[float]) -> None:
    """torch 2.13 keeps ``initial_lr`` from the first scheduler on; a rate that was set since is one to begin at."""
    for group, rate, left in zip(getattr(optimizer, "param_groups", ()), rates_of(optimizer), rates_left, strict=False):
        if rate != left and not math.isnan(rate):
            group.pop("initial_lr", None)


def check_optimizer(optimizer: Any, way_out: str) -> None:
    """Refuse what is no optimizer.

    Args:
        optimizer: an instance.
        way_out: for a class.

    Raises:
        TypeError: a class, or something without ``step`` and ``zero_grad``.
    """
    if isinstance(optimizer, type):
        raise TypeError(f"optimizer is an instance; got the class {optimizer.__name__}: {way_out}")
    if not (hasattr(optimizer, "step") and hasattr(optimizer, "zero_grad")):
        raise TypeError(f"optimizer has step and zero_grad, as torch.optim.SGD; got a {type(optimizer).__name__}")


def check_tensors(optimizer: Any, model: nn.Module) -> None:
    """Refuse an optimizer that moves other tensors than the model's.

    Raises:
        ValueError: it does.
    """
    ours = {id(parameter) for parameter in model.parameters()}
    groups = getattr(optimizer, "param_groups", [])
    foreign = sum(id(parameter) not in ours for group in groups for parameter in group["params"])
    if foreign:
        raise ValueError(
            f"optimizer moves the model's parameters; {foreign} of its tensors are not among those of "
            f"{type(model).__name__}: make it from model.parameters()"
        )


def warn_of_untrained(model: nn.Module, loss_func: Any) -> None:
    """Parameters of a loss are trained, moved, saved and clipped where they are the model's, and else not.

    Warns:
        UserWarning: it has some that are not.
    """
    ours = set(model.parameters())
    parameters = loss_func.parameters() if isinstance(loss_func, nn.Module) else ()
    n = sum(parameter.requires_grad and parameter not in ours for parameter in parameters)
    if n:
        warn_user(
            f"the optimizer moves parameters of the model; {type(loss_func).__name__} has {n} that "
            f"{'is' if n == 1 else 'are'} not: make the loss a part of it, model.loss = loss_func"
        )


class OptimizerOptions:
    """How a fit gets its optimizer: an instance that is kept, or one made anew of parameters and rate.

    Args:
        optimizer: an instance; None: one is made.
        lr: learning rate for the one that is made; None: its groups have their own.
        param_groups: a list of groups, or a function from the model to one; None: all parameters.

    Attributes:
        groups_made: of ``param_groups``, what the last optimizer began with.

    Raises:
        TypeError: a class or something without ``step`` as the optimizer, something else than a number as the rate.
        ValueError: neither an instance nor a rate, or both.
    """

    def __init__(self, optimizer: Any, lr: float | None, param_groups: Any):
        if optimizer is not None:
            check_optimizer(optimizer, "give it as opt_func, with lr")
        if optimizer is not None and lr is not None:
            raise ValueError("a Learner needs lr, for opt_func, or optimizer, an instance; got both")
        if optimizer is not None and param_groups is not None:
            raise ValueError("param_groups are for opt_func; the optimizer given has groups already: leave them out")
        self.optimizer, self.param_groups = optimizer, _own_groups(param_groups)
        self.groups_made: list[dict[str, Any]] = []
        self.check_rate(lr)

    def check_rate(self, lr: Any) -> None:
        """Refuse that there is none, at the start or since it was assigned."""
        check_rate(lr)
        if self.optimizer is None and lr is None and self.param_groups is None:
            raise ValueError("a Learner needs lr, for opt_func, or optimizer, an instance; got neither")

    def make(self, model: nn.Module, opt_func: Callable[..., Any], lr: Any) -> Any:
        """The optimizer of a fit: the instance, or ``opt_func(parameters, lr)``; a tensor as the rate is copied.

        Raises:
            ValueError: it is over tensors that are not the model's.
        """
        if self.optimizer is None:
            groups = model.parameters() if self.param_groups is None else self.param_groups
            groups = _own_groups(groups(model) if callable(groups) else groups)
            rate = () if lr is None else (lr.clone() if isinstance(lr, Tensor) else lr,)
            optimizer = opt_func(groups, *rate)
            if self.param_groups is not None:
                self.groups_made = [dict(group) for group in getattr(optimizer, "param_groups", ())]
        else:
            optimizer = self.optimizer
        check_tensors(optimizer, model)
        return optimizer


def _own_groups(groups: Any) -> Any:
    """Groups that an optimizer may keep and change, as torch's do, or read once; None and a function as they are."""
    if groups is None or callable(groups):
        return groups
    return [
        {name: _own_value(value, name) for name, value in group.items()} if isinstance(group, Mapping) else group
        for group in groups
    ]


def _own_value(value: Any, name: str) -> Any:
    if isinstance(value, Tensor):  # a parameter, or a rate that is changed in place
        return value if name == "params" else value.clone()
    return list(value) if isinstance(value, Iterator) else value


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
            warn_user(f"the override of {key!r} has no effect: nothing trainable goes by that name")
