"""The options of a job: what they are, what they may be, and what of them is the default, a file's or a flag's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import tyro

from .config_file import read_config
from .mistakes import UserMistake

__all__ = ["DEVICE", "Given", "Options", "check_values", "parse_options"]


def _optional(kind: str, otherwise: str) -> Any:  # Any: what tyro's markers are
    """How the help shows an option that may be None: what it takes, and what None means."""
    return tyro.conf.arg(metavar=kind, help_behavior_hint=f"(default: {otherwise})")


DEVICE: TypeAlias = Annotated[str | None, _optional("STR", "cuda, else mps, else cpu")]


@dataclass(frozen=True)
class Options:
    """What a job is: its data, its model, and how that is trained. The defaults are 784-128-10 on Fashion-MNIST.

    Args:
        data: fashion-mnist, mnist or glyphs (drawings made here); csv:FILE with columns for file and label; folder:DIR
            with a folder of images for each class, or such folders in train, valid and test; module:function, which
            returns datasets (train, valid) or (train, valid, test).
        images: folder of the images that a CSV file lists, or of the files of fashion-mnist and mnist.
        size: resize images of a CSV file or a folder to squares of this many pixels a side.
        augment: random changes of training images: flip swaps left and right, shift moves by up to a twelfth of the
            size.
        model: mlp, simple-nn or small-cnn; torchvision:NAME, without pretrained weights; module:Class, called with
            those of n_in, n_channels, n_out and num_classes that it takes.
        epochs: times through the training data.
        batch_size: samples in a batch.
        optimizer: torch's optimizer of that name.
        lr: learning rate; with a schedule, its highest.
        momentum: for sgd only, from 0 to below 1.
        weight_decay: weight decay; never applied to biases and norms.
        schedule: how the learning rate changes over all epochs; cosine first rises over a twentieth of the steps.
        accumulate: batches in one optimizer step.
        clip_norm: largest norm of the gradients of a step.
        precision: number format in which the model computes; bf16 and fp16 by autocast.
        ema: decay of averaged weights, such as 0.999; the averages are then what is validated and kept.
        patience: stop after this many epochs without a better validation loss.
        max_steps: stop after this many optimizer steps; a schedule still spans all epochs.
        device: cpu, cuda, cuda:1 or mps.
        workers: processes that read images ahead; data in memory needs none.
        seed: seed of the split, the initial weights and the order of the data.
        deterministic: use only operations that give the same bits each time; slower on a GPU.
        folder: folder of the run.
        checkpoint_steps: optimizer steps between two checkpoints, besides those after each epoch.
        timeline: before training, print what runs when.
    """

    data: str = "fashion-mnist"
    images: Annotated[Path | None, _optional("DIR", "beside the CSV file; data")] = None
    size: Annotated[int | None, _optional("INT", "as they are")] = None
    augment: Literal["none", "flip", "shift", "shift-flip"] = "none"
    model: str = "simple-nn"
    epochs: int = 5
    batch_size: int = 32
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Literal["constant", "one-cycle", "cosine"] = "constant"
    accumulate: int = 1
    clip_norm: Annotated[float | None, _optional("FLOAT", "any norm")] = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    ema: Annotated[float | None, _optional("FLOAT", "no averages")] = None
    patience: Annotated[int | None, _optional("INT", "never stop early")] = None
    max_steps: Annotated[int | None, _optional("INT", "no limit")] = None
    device: DEVICE = None
    workers: int = 0
    seed: int = 0
    deterministic: bool = False
    folder: Annotated[Path | None, _optional("DIR", "runs/YYYYmmdd-HHMMSS")] = None
    checkpoint_steps: Annotated[int | None, _optional("INT", "only those")] = None
    timeline: bool = False


@dataclass(frozen=True)
class Given:
    """Options with the origin of each.

    Args:
        options: the values.
        origins: name → "file" or "flag", or what a run's config.yaml says; a name that is not there has its default.
    """

    options: Options
    origins: dict[str, str] = field(default_factory=dict)


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "size": (lambda n: n >= 1, "the height and width of images in pixels, at least 1"),
    "epochs": (lambda n: n >= 1, "how often the training data is gone through, at least 1"),
    "batch_size": (lambda n: n >= 1, "the number of samples in a batch, at least 1"),
    "lr": (lambda x: 0 < x < math.inf, "the learning rate, above 0"),
    "momentum": (lambda x: 0 <= x < 1, "from 0 to below 1"),
    "weight_decay": (lambda x: 0 <= x < math.inf, "at least 0"),
    "accumulate": (lambda n: n >= 1, "the number of batches in a step, at least 1"),
    "clip_norm": (lambda x: x > 0, "the largest norm of the gradients, above 0"),
    "ema": (lambda x: 0 < x < 1, "the part of the average that stays, between 0 and 1"),
    "patience": (lambda n: n >= 1, "a number of epochs, at least 1"),
    "max_steps": (lambda n: n >= 1, "a number of optimizer steps, at least 1"),
    "workers": (lambda n: n >= 0, "a number of processes, at least 0"),
    "seed": (lambda n: 0 <= n < 2**32, "a whole number from 0 to 2**32 - 1"),
    "checkpoint_steps": (lambda n: n >= 1, "a number of optimizer steps, at least 1"),
}


@dataclass(frozen=True)
class _Words:
    """A command line.

    Args:
        job: the options.
        config: YAML file of values, a line `name: value` for each, below the flags; a run's config.yaml is one too.
    """

    job: Annotated[Options, tyro.conf.arg(name="")]
    config: Annotated[Path | None, _optional("FILE", "none")] = None


def parse_options(words: Sequence[str], *, prog: str, description: str) -> Given:
    """The options of a command line; flags go before the file of ``--config``, and that before the defaults.

    Args:
        words: after the command's name.
        prog: the command, for its help.
        description: the text above the options in its help.

    Raises:
        UserMistake: the file is none, or a value is out of its range.
        SystemExit: tyro's: 0 after ``--help``, 2 after a wrong flag, which it has explained.

    >>> given = parse_options(["--lr", "0.1"], prog="train", description="")
    >>> given.options.lr, given.options.epochs, given.origins
    (0.1, 5, {'lr': 'flag'})
    """

    def parse(default: _Words) -> _Words:
        parsed: _Words = tyro.cli(_Words, prog=prog, description=description, args=list(words), default=default)
        return parsed

    parsed, origins = parse(_Words(Options())), {}
    if parsed.config is not None:
        values, _ = read_config(parsed.config.expanduser(), Options)
        parsed = parse(_Words(dataclasses.replace(Options(), **values)))
        origins = dict.fromkeys(values, "file")
    flags = {word.partition("=")[0].removeprefix("--").replace("_", "-") for word in words if word.startswith("--")}
    for option in dataclasses.fields(Options):
        name = option.name.replace("_", "-")
        if name in flags or f"no-{name}" in flags:
            origins[option.name] = "flag"
    paths = {name: getattr(parsed.job, name) for name in ("images", "folder")}
    paths = {name: path and path.expanduser() for name, path in paths.items()}  # no shell does it in YAML, or behind =
    job = dataclasses.replace(parsed.job, **paths)
    check_values(job)
    return Given(job, origins)


def check_values(options: Options) -> None:
    """Refuse values outside their range, and such as could have no effect.

    Raises:
        UserMistake: with rule, value and the flag's name.
    """
    for name, (holds, rule) in _RULES.items():
        value = getattr(options, name)
        if value is not None and not holds(value):
            raise UserMistake(f"--{name.replace('_', '-')} is {rule}; got {value!r}")
    if options.momentum and options.optimizer != "sgd":
        raise UserMistake(f"--momentum is sgd's; got {options.momentum!r} with --optimizer {options.optimizer}")
