"""Images that a table names: a CSV file with a column of files and a column of labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

__all__ = ["CSVImages", "as_rgb", "is_called_like_an_image", "open_image", "open_rgb"]

if TYPE_CHECKING:
    from PIL import Image

_BITS_16 = 2**16 - 1


class CSVImages(Dataset[tuple[Any, int]]):  # Any: what the transform makes of an image
    """Images and labels that are listed in a CSV file; an image is read when it is asked for.

    Labels are class numbers, or names, which are numbered in sorted order. The first row is taken as a header if the
    file that it names does not exist and that name does not end like an image's. At construction the whole table is
    checked, and whether the files exist; their contents are checked when they are read.

    Grey images stay grey: those of 8 bits in PIL's mode ``L``, those of 16 bits in mode ``F`` from 0 to 1, so that
    ``ToTensor`` gives both from 0 to 1 with all their bits. All others become ``RGB``; transparency is dropped.

    Args:
        csv_file: the table, UTF-8, commas; blank lines count for nothing.
        root_dir: the folder that the names of the files begin in.
        transform: called with each PIL image; None: the item has the PIL image itself.
        classes: names of the classes, in the order of their numbers, for instance of the training set for the test set;
            None: those in the table.
        path_column: which column names the file, from 0.
        label_column: which column has the label, from 0.

    Attributes:
        classes: names of the classes, or the numbers as text.
        targets: the class number of each image, (N,) int64.
        paths: the file of each image.

    Raises:
        FileNotFoundError: the table or images are not there.
        ValueError: the table is empty, a row is too short, or labels do not fit the classes; while reading: a file is
            not an image.
    """

    def __init__(
        self,
        csv_file: str | Path,
        root_dir: str | Path,
        transform: Callable[[Any], Any] | None = None,
        *,
        classes: Sequence[str] | None = None,
        path_column: int = 0,
        label_column: int = 1,
    ):
        self.csv_file = Path(csv_file)
        self.root_dir = Path(root_dir)
        self.transform = transform
        rows = _read_rows(self.csv_file, path_column, label_column)
        if _is_header(rows[0][1], self.root_dir):
            rows = rows[1:]
        if not rows:
            raise ValueError(f"{self.csv_file} has no row that names an image and its label")
        self.paths = [self.root_dir / name for _, name, _ in rows]
        self._lines = [line for line, _, _ in rows]
        self._check_files([name for _, name, _ in rows])
        labels = [label for _, _, label in rows]
        self.classes, numbers = _numbered(labels, self._lines, classes, self.csv_file)
        self.targets = torch.tensor(numbers)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path = self.paths[index]
        try:
            image = open_image(path)
        except Exception as error:  # PIL raises OSError, SyntaxError and others, as the format has it
            raise ValueError(
                f"{path} (line {self._lines[index]} of {self.csv_file}) is not an image that can be read: {error}"
            ) from error
        return (image if self.transform is None else self.transform(image)), int(self.targets[index])

    def _check_files(self, names: list[str]) -> None:
        missing = [name for name, path in zip(names, self.paths, strict=True) if not path.is_file()]
        if missing:
            shown = ", ".join(repr(name) for name in missing[:5]) + (", …" if len(missing) > 5 else "")
            what = "image that is" if len(missing) == 1 else "images that are"
            raise FileNotFoundError(f"{self.csv_file} names {len(missing)} {what} not in {self.root_dir}: {shown}")


def _read_rows(csv_file: Path, path_column: int, label_column: int) -> list[tuple[int, str, str]]:
    """(line, file, label) of each row that is not blank."""
    if not csv_file.is_file():
        raise FileNotFoundError(f"the table of images is a CSV file; there is no file {csv_file}")
    needed = max(path_column, label_column) + 1
    rows = []
    try:
        text = csv_file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{csv_file} is not UTF-8 ({error}): save it as UTF-8") from error
    with io.StringIO(text, newline="") as lines:
        for line, row in _table(lines, csv_file):
            if not any(cell.strip() for cell in row):
                continue
            if len(row) < needed:
                raise ValueError(
                    f"{csv_file} needs {needed} columns, for the file and its label; line {line} is {row!r}"
                )
            name, label = row[path_column].strip(), row[label_column].strip()
            for cell in (name, label):
                if "\n" in cell:
                    raise ValueError(
                        f"files and labels are one line each; in {csv_file} a cell ends in line {line} that begins "
                        f"with {cell[:20]!r}: look for a quote that is left open"
                    )
            rows.append((line, name, label))
    if not rows:
        raise ValueError(f"{csv_file} is empty; a row names an image and its label")
    return rows


def _table(lines: Iterable[str], csv_file: Path) -> Iterator[tuple[int, list[str]]]:
    """Each row of a table with the number of its last line."""
    reader, last = csv.reader(lines), 0
    try:
        for row in reader:
            last = reader.line_num
            yield last, row
    except csv.Error as error:
        raise ValueError(
            f"{csv_file} has a row in line {last + 1} that does not end ({error}): look for a quote that is left open"
        ) from error


def _is_header(name: str, root: Path) -> bool:
    """Whether the first row's file is none: not there, and not called like an image."""
    return not (root / name).is_file() and not is_called_like_an_image(Path(name))


def is_called_like_an_image(path: Path) -> bool:
    """Whether a file's name ends as that of an image which PIL can read: it writes others, too, such as PDF."""
    from PIL import Image

    return Image.registered_extensions().get(path.suffix.lower()) in Image.OPEN


def _numbered(
    labels: list[str], lines: list[int], classes: Sequence[str] | None, csv_file: Path
) -> tuple[list[str], list[int]]:
    """The names of the classes, and the number of each label."""
    if "" in labels:
        raise ValueError(f"a label is a name or a number; {csv_file} has none in line {lines[labels.index('')]}")
    are_numbers = all(_is_integer(label) for label in labels)
    if classes is None and are_numbers and max(map(int, labels)) > max(1000, len(labels)):
        raise ValueError(
            f"labels that are numbers are those of classes, from 0 without large gaps; {csv_file} has "
            f"{max(labels, key=int)} in {len(labels)} rows: number the classes, or give their names in classes"
        )
    if classes is None:
        names = [str(number) for number in range(max(map(int, labels)) + 1)] if are_numbers else sorted(set(labels))
    else:
        names = list(classes)
    number_of = {name: number for number, name in enumerate(names)}
    if are_numbers and not all(label in number_of for label in labels):
        number_of = {label: int(label) for label in set(labels) if 0 <= int(label) < len(names)}
    wrong = [(label, line) for label, line in zip(labels, lines, strict=True) if label not in number_of]
    if wrong:
        label, line = wrong[0]
        raise ValueError(
            f"labels are the names of the classes or their numbers from 0 to {len(names) - 1}; {csv_file} has "
            f"{len(wrong)} others, the first in line {line}: {label!r}"
        )
    return names, [number_of[label] for label in labels]


def _is_integer(label: str) -> bool:
    return label.removeprefix("-").isdecimal()


def open_rgb(path: str | Path) -> Image.Image:
    """The image in RGB; of 16 bits of grey the upper 8."""
    return as_rgb(open_image(Path(path)))


def as_rgb(image: Image.Image) -> Image.Image:
    """What ``open_image`` gave, in RGB; PIL alone would cut grey of 16 bits off at 255."""
    from PIL import Image

    if image.mode == "F":
        image = Image.fromarray((np.asarray(image).clip(0, 1) * 255).round().astype(np.uint8))
    return image.convert("RGB")


def open_image(path: Path) -> Image.Image:
    """The image in mode L, in mode F (16 bits of grey, from 0 to 1; or floats, as they are), or in RGB."""
    from PIL import Image

    image: Image.Image
    with Image.open(path) as image:
        image.load()
    if image.mode in ("1", "L", "LA"):
        return image.convert("L")
    if image.mode.startswith("I"):
        return Image.fromarray(np.asarray(image).astype(np.float32) / _BITS_16)
    if image.mode == "F":
        return image
    if "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns of dropping a palette's transparency at once
    return image.convert("RGB")
