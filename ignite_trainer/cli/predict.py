"""``ignite-trainer predict``: the class of images, and how sure the model is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from ..data.csv_images import as_rgb, is_called_like_an_image, open_image
from ..devices import pick_device
from ..vision import import_torchvision
from .job_data import image_transform, load_data
from .mistakes import UserMistake, mistakes
from .options import DEVICE
from .run_folder import Run, read_run
from .train import say

__all__ = ["predict"]

_BATCH = 64


def predict(
    run: Annotated[Path, tyro.conf.arg(metavar="RUN")],
    images: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE|DIR ...", help_behavior_hint="(required)")],
    /,
    *,
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    device: DEVICE = None,
) -> int:
    """Print the predicted class of images, with its probability.

    Example: ignite-trainer predict runs/20260131-235959 shoe.png photos --json

    Args:
        run: folder of the run.
        images: files of images, or folders of them.
        json: print a JSON object a line, with file, class and probability.
        device: cpu, cuda, cuda:1 or mps.

    Returns:
        0.
    """
    known = read_run(run)
    files = list(_files(images))
    with mistakes():
        on = pick_device(device)
    model, to_input = known.model().to(on).eval(), _to_input(known)
    width = max(len(str(file)) for file in files)
    with torch.no_grad():
        for first in range(0, len(files), _BATCH):
            batch = files[first : first + _BATCH]
            x = torch.stack([_input(file, to_input, known) for file in batch]).to(on)
            probabilities = model(x).float().softmax(dim=1).cpu()
            for file, row in zip(batch, probabilities, strict=True):
                say(_line(file, known.classes[int(row.argmax())], row.max().item(), width, json))
    return 0


def _line(file: Path, name: str, probability: float, width: int, as_json: bool) -> str:
    if as_json:
        row = {"file": str(file), "class": name, "probability": round(probability, 6)}
        return dumps(row, ensure_ascii=False)
    return f"{file!s:{width}}  {probability:>7.2%}  {name}"


def _files(images: tuple[Path, ...]) -> Iterator[Path]:
    """The files as they were given, and of each folder its images, by name."""
    if not images:
        raise UserMistake("predict takes files of images or folders of them; got none")
    for path in images:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if is_called_like_an_image(file))
            if not inside:
                raise UserMistake(f"predict takes images; the folder {path} has none")
            yield from inside
        elif path.is_file():
            yield path
        else:
            raise UserMistake(f"predict takes files of images or folders of them; there is no {path}")


def _to_input(run: Run) -> Callable[[Any], Tensor]:
    """What makes an input of a PIL image: what the validation data of the run does, in the run's channels and size."""
    shape, data = run.input_shape, run.options.data
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserMistake(f"predict reads images; the inputs of {run.folder} are of shape {shape}")
    if ":" not in data or data.partition(":")[0] in ("csv", "folder"):
        resize = import_torchvision().transforms.Resize(list(shape[1:]))
        to_tensor = image_transform(replace(run.options, size=None))
        return lambda image: to_tensor(resize(image))
    dataset = load_data(run.options).valid
    while dataset is not None and getattr(dataset, "transform", None) is None:
        dataset = getattr(dataset, "dataset", None)
    if dataset is None:
        raise UserMistake(
            f"predict makes inputs of images as the validation dataset does; that of {data} has no .transform, which "
            "is called with a PIL image"
        )
    transform: Callable[[Any], Tensor] = dataset.transform
    return transform


def _input(file: Path, to_input: Callable[[Any], Tensor], run: Run) -> Tensor:
    try:
        image = open_image(file)
    except Exception as error:  # PIL raises OSError, SyntaxError and others, as the format has it
        raise UserMistake(f"{file} is not an image that can be read: {error}") from error
    n_channels = run.input_shape[0]
    if (n_channels == 3) != (image.mode == "RGB"):
        image = as_rgb(image) if n_channels == 3 else image.convert("L")
    x = to_input(image)
    if tuple(x.shape) != run.input_shape:
        raise UserMistake(f"{file} gives an input of shape {tuple(x.shape)}; the model takes {run.input_shape}")
    return x
