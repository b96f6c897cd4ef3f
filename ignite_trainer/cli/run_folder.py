"""The folder of a run that ``train`` made: its options, its model, and what it knows of its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..weights import load_weights
from .build import build_model
from .config_file import read_config, read_yaml
from .job_data import JobData
from .mistakes import UserMistake, mistakes
from .options import Given, Options, check_values

__all__ = ["Run", "check_data", "is_run", "read_run", "weights_file"]

_CONFIG = "config.yaml"


class Run(NamedTuple):
    """A run, read from its folder.

    Args:
        folder: of the run.
        given: the options that it was made with.
        classes: the names of the classes.
        input_shape: of one input.
        input_dtype: of the inputs.
        samples: numbers of those that were trained on, and validated on.
    """

    folder: Path
    given: Given
    classes: list[str]
    input_shape: tuple[int, ...]
    input_dtype: torch.dtype
    samples: tuple[int, ...]

    @property
    def options(self) -> Options:
        """The values alone."""
        return self.given.options

    def model(self) -> nn.Module:
        """The model with the weights that the run keeps, those that were validated best.

        Raises:
            UserMistake: there are none, or they are another model's.
        """
        model = build_model(self.options.model, self.input_shape, len(self.classes), self.input_dtype)
        file = weights_file(self.folder)
        if not file.is_file():
            raise UserMistake(f"{self.folder} has no {file.name} yet: a run writes it after its first epoch")
        with mistakes():
            load_weights(model, file)
        return model


def is_run(folder: Path) -> bool:
    """Whether there is a run in this folder."""
    return (folder / _CONFIG).exists() or (folder / "checkpoints").exists()


def check_data(known: Run, data: JobData) -> None:
    """Refuse data of other classes, of another shape or type, than a run was trained on.

    Raises:
        UserMistake: it is.
    """
    if data.classes != known.classes or data.input_shape != known.input_shape:
        raise UserMistake(
            f"{known.folder} was trained on {len(known.classes)} classes and inputs {known.input_shape}; "
            f"{known.options.data} has {len(data.classes)} and {data.input_shape} now, or names them otherwise"
        )
    if data.input_dtype != known.input_dtype:
        raise UserMistake(
            f"{known.folder} was trained on inputs of {known.input_dtype}; {known.options.data} gives "
            f"{data.input_dtype} now"
        )


def weights_file(folder: Path) -> Path:
    """The file of the weights that a run keeps."""
    return folder / "model.safetensors"


def read_run(folder: Path) -> Run:
    """A run as ``train`` made it.

    Raises:
        UserMistake: the folder is none of a run, or of one that a script made.
    """
    file = folder / _CONFIG
    if not folder.is_dir():
        raise UserMistake(f"a run is a folder, such as runs/20260131-235959; there is no folder {folder}")
    if not file.is_file():
        raise UserMistake(f"{folder} is no run: it has no {_CONFIG}")
    found = read_yaml(file).get("job")
    if not isinstance(found, dict):
        raise UserMistake(f"{folder} was not made by `ignite-trainer train`: its {_CONFIG} has no job")
    values, origins = read_config(file, Options)
    given = Given(Options(**{**values, "folder": folder}), origins)
    check_values(given.options)
    try:
        classes, shape, samples = ([*found[name]["value"]] for name in ("classes", "input_shape", "samples"))
        dtype = found["input_dtype"]["value"]
    except (KeyError, TypeError) as error:
        raise UserMistake(
            f"{file} names classes, input_shape, input_dtype and samples below job; one of them is not there"
        ) from error
    input_shape, n_samples = _whole("input_shape", shape, file), _whole("samples", samples, file)
    return Run(folder, given, [str(name) for name in classes], input_shape, _dtype(dtype, file), n_samples)


def _whole(name: str, numbers: list[Any], file: Path) -> tuple[int, ...]:
    for number in numbers:
        if not isinstance(number, int):
            raise UserMistake(f"{file}: {name} is whole numbers; got {number!r}")
    return tuple(numbers)


def _dtype(name: Any, file: Path) -> torch.dtype:
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype):
        raise UserMistake(f"{file}: input_dtype is a type of torch, such as float32; got {name!r}")
    return dtype
