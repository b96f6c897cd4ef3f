"""What is known of a run before it starts: its values with where each came from, and the names of its classes."""

from __future__ import annotations

import inspect
import platform
from typing import Any

import ignite
import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..data import OrderedLoader
from ..distributed import world_size
from ..learner_like import LearnerLike
from ..loadable import UNKNOWN
from ..version import __version__

__all__ = ["class_names", "run_config"]


def run_config(learn: LearnerLike) -> dict[str, dict[str, Any]]:
    """The values of a run, ``name: {"value": …, "from": …}``, as plain data.

    ``from`` is "Learner" for what was given to it, "default" for what nobody gave, "optimizer" for what an optimizer
    instance holds, "loader", "fit", "model" or "environment".

    Args:
        learn: in or after ``before_fit``, when it has its optimizer.
    """
    config = {
        "model": (name_of(learn.model), "Learner"),
        "parameters": (_n_parameters(learn.model), "model"),
        "loss_func": (name_of(learn.loss_func), "Learner"),
        "optimizer": (name_of(learn.opt), _origin(learn, learn.opt_func is torch.optim.SGD)),
        "lr": (learn.lr, "Learner"),
        **_optimizer_values(learn),
        "n_epochs": (learn.n_epochs, "fit"),
        "metrics": (", ".join(learn.metrics) or "none", "Learner" if learn.metrics else "default"),
        "device": (str(learn.device), "Learner" if learn.device_given else "default"),
        **_options(learn),
        **_loader_values(train=learn.train_dl, valid=learn.valid_dl),
        "version.python": (platform.python_version(), "environment"),
        "version.torch": (str(torch.__version__), "environment"),
        "version.ignite": (ignite.__version__, "environment"),
        "version.ignite_trainer": (__version__, "environment"),
        "version.numpy": (np.__version__, "environment"),
        "ranks": (world_size(), "environment"),
        "threads": (torch.get_num_threads(), "environment"),
    }
    return {name: {"value": _plain(value), "from": origin} for name, (value, origin) in config.items()}


def class_names(*loaders: Any) -> list[str] | None:
    """The names of the classes, the ``classes`` of a loader's dataset, through ``Subset``; None if nobody knows them.

    Args:
        *loaders: of which the first that knows them counts.

    >>> from types import SimpleNamespace
    >>> loader = SimpleNamespace(dataset=SimpleNamespace(classes=["bag", "coat"]))
    >>> class_names(None, loader)
    ['bag', 'coat']
    """
    for found in loaders:
        while found is not None:
            classes = getattr(found, "classes", None)
            classes = classes.tolist() if isinstance(classes, np.ndarray) else classes
            if isinstance(classes, (list, tuple)):
                return [str(name) for name in classes]
            found = getattr(found, "dataset", None)
    return None


def name_of(thing: Any) -> str:
    """The name of a function, or of an object's class."""
    return str(getattr(thing, "__name__", type(thing).__name__))


def _optimizer_values(learn: LearnerLike) -> dict[str, tuple[Any, str]]:
    defaults = getattr(learn.opt, "defaults", {})
    signature = inspect.signature(type(learn.opt).__init__).parameters
    values: dict[str, tuple[Any, str]] = {}
    for name, value in defaults.items():
        if name == "lr":
            continue
        is_default = name in signature and signature[name].default == value
        values[f"optimizer.{name}"] = value, _origin(learn, is_default)
    if learn.lr is None and "lr" in defaults:
        values["lr"] = defaults["lr"], "optimizer"
    return values


def _n_parameters(model: nn.Module) -> int | str:
    parameters = list(model.parameters())
    return UNKNOWN if any(map(is_lazy, parameters)) else sum(parameter.numel() for parameter in parameters)


def _options(learn: LearnerLike) -> dict[str, tuple[Any, str]]:
    learner = next(kind for kind in type(learn).__mro__ if kind.__module__ == f"{__package__.split('.')[0]}.learner")
    parameters = inspect.signature(learner).parameters
    values = {name: getattr(learn, name) for name in ("precision", "accumulate", "clip_norm", "compile")}
    return {
        name: (value, "default" if value == parameters[name].default else "Learner") for name, value in values.items()
    }


def _origin(learn: LearnerLike, is_default: bool) -> str:
    if learn.lr is None:
        return "optimizer"
    return "default" if is_default else "Learner"


def _loader_values(**loaders: Any) -> dict[str, tuple[Any, str]]:
    sizes = {phase: _sizes(loader) for phase, loader in loaders.items()}
    return {
        f"{name}.{phase}": (size, "loader")
        for phase, of_phase in sizes.items()
        for name, size in zip(("batch_size", "samples"), of_phase, strict=True)
        if size is not None
    }


def _sizes(loader: Any) -> tuple[int | None, int | None]:
    """How many samples a batch and an epoch have; None where nobody knows."""
    if isinstance(loader, OrderedLoader):
        return loader.order.batch_size, loader.order.n_samples
    dataset: Any = getattr(loader, "dataset", None)
    return getattr(loader, "batch_size", None), len(dataset) if hasattr(dataset, "__len__") else None


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (bool, int, float, str, type(None))) else name_of(value)
