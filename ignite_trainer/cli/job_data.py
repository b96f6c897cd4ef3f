"""The data of a job: what ``--data`` names, as datasets, with the shape of an input and the names of the classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Subset

from ..data import CSVImages, fashion_mnist, glyphs, image_folder, mnist, random_split
from ..data.tensors import whole_tensors
from ..handlers.run_config import class_names
from ..rng import rng_kept
from ..vision import import_torchvision
from .jobs import call, find_function
from .mistakes import UserMistake, mistakes
from .options import Options

__all__ = ["JobData", "image_transform", "load_data"]

_PARTS = ("valid", "val", "validation"), ("test",)
_VALID_PART = 0.2  # of images that have no validation set of their own


class JobData(NamedTuple):
    """The datasets of a job.

    Args:
        train, valid: with ``__len__`` and ``__getitem__``; an item is (input, class number).
        test: another one; None: there is none.
        classes: the names of the classes.
        input_shape: of one input, without the batch; of images (channels, height, width).
        input_dtype: of the inputs, as batches have them.
    """

    train: Any
    valid: Any
    test: Any
    classes: list[str]
    input_shape: tuple[int, ...]
    input_dtype: torch.dtype


def load_data(options: Options) -> JobData:
    """The datasets that ``--data`` names.

    Raises:
        UserMistake: there are none of that name, or they are not such as can be trained on.
    """
    kind, colon, place = options.data.partition(":")
    if options.size is not None and kind not in ("csv", "folder"):
        raise UserMistake(f"--size is for images of a CSV file or a folder; got it with --data {options.data}")
    if options.images is not None and kind not in ("csv", "fashion-mnist", "mnist"):
        raise UserMistake(f"--images is for csv, fashion-mnist and mnist; got it with --data {options.data}")
    with mistakes("--data"):
        if not colon:
            if kind not in _BUILT_IN:
                raise UserMistake(f"--data is {_FORMS}; got {options.data!r}")
            train, valid, test = _BUILT_IN[kind](options)
        elif kind == "csv":
            train, valid, test = _csv(Path(place).expanduser(), options)
        elif kind == "folder":
            train, valid, test = _folder(Path(place).expanduser(), options)  # no shell does it behind a colon
        else:
            train, valid, test = _from_function(options.data)
    return JobData(train, valid, test, _classes(train, valid, options), *_input_of(train, options))


_FORMS = "fashion-mnist, mnist, glyphs, csv:FILE, folder:DIR or module:function"


def image_transform(options: Options) -> Callable[[Any], Tensor]:
    """What makes an input of a PIL image: a tensor (channels, height, width) from 0 to 1, resized to ``--size``."""
    transforms = import_torchvision().transforms
    steps = [] if options.size is None else [transforms.Resize((options.size, options.size))]
    return transforms.Compose([*steps, transforms.ToTensor()])  # type: ignore[no-any-return]


def _of_60_000(dataset: Callable[..., tuple[Any, Any]], options: Options) -> tuple[Any, Any, Any]:
    images, test = dataset(options.images or "data")
    return *random_split(images, [50_000, 10_000], seed=options.seed), test


def _glyphs(options: Options) -> tuple[Any, Any, Any]:
    return glyphs(5_000, 3 * options.seed), glyphs(1_000, 3 * options.seed + 1), glyphs(1_000, 3 * options.seed + 2)


_BUILT_IN: dict[str, Callable[[Options], tuple[Any, Any, Any]]] = {
    "fashion-mnist": partial(_of_60_000, fashion_mnist),
    "mnist": partial(_of_60_000, mnist),
    "glyphs": _glyphs,
}


def _csv(file: Path, options: Options) -> tuple[Any, Any, Any]:
    images = CSVImages(file, options.images or file.parent, image_transform(options))
    train, valid = _two_parts(images, options)
    return train, valid, None


def _folder(folder: Path, options: Options) -> tuple[Any, Any, Any]:
    def images(path: Path) -> Any:
        try:
            return image_folder(path, image_transform(options))
        except FileNotFoundError as error:  # torchvision's own, of classes without an image, names all of them
            raise UserMistake(f"--data: {str(error)[:300]}") from error

    if not (folder / "train").is_dir() or not any(path.is_dir() for path in (folder / "train").iterdir()):
        return *_two_parts(images(folder), options), None  # type: ignore[return-value]  # mypy takes None for theirs
    train = images(folder / "train")
    others = [next((folder / name for name in names if (folder / name).is_dir()), None) for names in _PARTS]
    valid, test = (None if path is None else images(path) for path in others)
    for part in (valid, test):
        if part is not None and part.classes != train.classes:
            raise UserMistake(
                f"--data: train, valid and test have the same folders of classes; {part.root} has "
                f"{', '.join(part.classes)}, {train.root} has {', '.join(train.classes)}"
            )
    if valid is None:
        train, valid = _two_parts(train, options)
    return train, valid, test


def _two_parts(images: Any, options: Options) -> list[Subset[Any]]:
    if len(images) < 2:
        raise UserMistake(f"--data {options.data} has 1 image; to train and to validate at least 2 are needed")
    n_valid = max(1, round(_VALID_PART * len(images)))
    return random_split(images, [len(images) - n_valid, n_valid], seed=options.seed)


def _from_function(name: str) -> tuple[Any, Any, Any]:
    parts = call(find_function(name), what=f"--data {name}")
    if not (isinstance(parts, (tuple, list)) and len(parts) in (2, 3)):
        what = f"{type(parts).__name__} of {len(parts)}" if isinstance(parts, (tuple, list)) else type(parts).__name__
        raise UserMistake(f"--data {name} returns (train, valid) or (train, valid, test), datasets; it returned {what}")
    for part in parts:
        if not (hasattr(part, "__len__") and hasattr(part, "__getitem__") and len(part) > 0):
            raise UserMistake(
                f"--data {name} returns datasets with a length and items by number; it returned a {type(part).__name__}"
                + (" of length 0" if hasattr(part, "__len__") else "")
            )
    return parts[0], parts[1], parts[2] if len(parts) > 2 else None


def _classes(train: Any, valid: Any, options: Options) -> list[str]:
    names = class_names(train, valid)
    if names is not None:
        return names
    try:
        numbers = [_targets(part) for part in (train, valid)]
    except (TypeError, ValueError):  # lists of several lengths, or of names
        numbers = [None]
    if any(part is None or part.is_floating_point() or part.ndim != 1 for part in numbers):
        raise UserMistake(
            f"--data {options.data}: the classes are the dataset's .classes, or found from its .targets or its second "
            f"tensor, whole numbers from 0; this {type(train).__name__} has none of these: give it .classes"
        )
    return [str(number) for number in range(int(torch.cat(numbers).max()) + 1)]  # type: ignore[arg-type]


def _targets(dataset: Any) -> Tensor | None:
    """The labels of a dataset that has them in one place."""
    if type(dataset) is Subset:
        targets = _targets(dataset.dataset)
        return None if targets is None else targets[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    whole = whole_tensors(dataset)
    if whole is None:
        targets = getattr(dataset, "targets", None)
    else:
        targets = whole.tensors[1] if len(whole.tensors) > 1 else None
    return None if targets is None else torch.as_tensor(targets)


def _input_of(dataset: Any, options: Options) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and type of the first input; the random generators stay as they are."""
    rows = 0
    while type(dataset) is Subset:
        rows, dataset = dataset.indices[rows], dataset.dataset
    whole = whole_tensors(dataset)
    if whole is not None:
        x = whole.tensors[0]
        if not whole.images:
            return tuple(x.shape[1:]), x.dtype
        return (*(1,) * (x.ndim == 3), *x.shape[1:]), torch.float32
    with rng_kept():
        item = call(lambda: dataset[rows], what=f"--data {options.data}, sample {rows}")
    if not (isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], Tensor)):
        got = [type(part).__name__ for part in item] if isinstance(item, (tuple, list)) else type(item).__name__
        raise UserMistake(f"--data {options.data}: an item is (tensor, class number); got {got}")
    return tuple(item[0].shape), item[0].dtype
