"""The jobs that commands work on: a user's functions, found by name, and jobs that are built in."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.utils.data import Dataset

from ..data import DataLoaders
from ..handlers import EMA, Checkpoint, EarlyStopping, Schedule
from ..learner import Learner
from ..metrics import accuracy
from ..rng import seed_everything
from ..schedules import warmup_cosine
from .mistakes import UserMistake

__all__ = ["builtin_loop_job", "builtin_resume_job", "call", "find_function", "make_learner"]


def find_function(name: str, *, optional: bool = False) -> Any:
    """The function that ``module:function`` names; modules are looked for in the working folder too.

    Args:
        name: such as ``my_job:make``, of a file ``my_job.py`` here.
        optional: None where the module has no such function.

    Raises:
        UserMistake: there is no such module or function, or the module cannot be imported.

    >>> find_function("math:sqrt")(9)
    3.0
    """
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise UserMistake(f"a function is named module:function, such as my_job:make; got {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = call(importlib.import_module, module_name, what=f"import {module_name}")
    function = getattr(module, function_name, None)
    if function is None and optional:
        return None
    if not callable(function):
        here = "nothing of that name" if function is None else f"a {type(function).__name__}"
        raise UserMistake(f"{name!r} names a function; module {module_name} has {here}")
    return function


def call(function: Callable[..., Any], *args: Any, what: str, **kwargs: Any) -> Any:
    """What a user's function returns.

    Raises:
        UserMistake: it raised; with the error's type, text and place.
    """
    try:
        return function(*args, **kwargs)
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
        text = " ".join(str(error).split())
        place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if len(frames) > 1 else ""
        raise UserMistake(f"{what}: {type(error).__name__}: {text}{place}") from error


def make_learner(name: str | None, folder: Path, workers: int | None = None) -> tuple[Learner, int]:
    """The learner and the number of epochs that a job's function returns.

    Args:
        name: ``module:function``, called with the folder, and with ``workers=`` if it takes that; None: built in.
        folder: where the run shall write.
        workers: None: the function's own.

    Raises:
        UserMistake: it raised, or returned something else.
    """
    function = builtin_resume_job if name is None else find_function(name)
    if workers is not None and not takes_workers(function):
        raise UserMistake(f"{name} has no parameter workers, so the option --workers has no effect: leave it out")
    options = {} if workers is None else {"workers": workers}
    made = call(function, folder, what=f"{name}", **options)
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], Learner) and isinstance(made[1], int)):
        raise UserMistake(f"a job returns (learner, n_epochs); {name} returned {type(made).__name__}")
    return made


def takes_workers(function: Callable[..., Any]) -> bool:
    """Whether a job's function has a parameter ``workers``."""
    return "workers" in inspect.signature(function).parameters


class _NoisyPoints(Dataset[tuple[Tensor, Tensor]]):
    """Clouds of points, moved at random whenever they are read: random augmentation."""

    def __init__(self, n: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.y = torch.randint(3, (n,), generator=generator)
        self.x = 2 * torch.eye(3, 6)[self.y] + torch.randn(n, 6, generator=generator)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index] + 0.1 * torch.randn(6), self.y[index]


def _dropout_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 3))


def builtin_resume_job(folder: Path, workers: int = 0) -> tuple[Learner, int]:
    """A small job with all that makes resuming hard: random numbers everywhere, windows, averages, early stopping."""
    seed_everything(0)
    learn = Learner(
        _dropout_net(),
        DataLoaders.from_datasets(_NoisyPoints(44, 1), _NoisyPoints(20, 2), 8, num_workers=workers),
        nn.CrossEntropyLoss(),
        0.01,
        [Schedule(warmup_cosine(warmup_steps=2)), EMA(0.8), EarlyStopping(patience=2), Checkpoint(every_steps=2)],
        optim.Adam,
        metrics={"accuracy": accuracy},
        device="cpu",
        accumulate=2,
        folder=folder,
    )
    return learn, 4


def builtin_loop_job() -> tuple[Any, ...]:
    """Model, optimizer function, loss, loaders and epochs for a loop whose module has no ``job``."""
    dls = DataLoaders.from_datasets(_NoisyPoints(44, 1), _NoisyPoints(20, 2), 8)
    return _dropout_net(), lambda parameters: optim.Adam(parameters, 0.01), nn.CrossEntropyLoss(), *dls, 3
