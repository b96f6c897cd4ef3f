"""Datasets of images: Fashion-MNIST and MNIST from wherever they lie, checked byte for byte, and folders."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.error import URLError

from ..vision import import_torchvision
from .csv_images import open_rgb

__all__ = ["DEBIAN_FOLDER", "fashion_mnist", "image_folder", "mnist"]

if TYPE_CHECKING:
    from torchvision.datasets import MNIST, FashionMNIST, ImageFolder

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

# sha256 of the uncompressed files: the gz files differ from packer to packer
_FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_MNIST = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_CHUNK = 1 << 20


def fashion_mnist(
    root: str | Path = "data",
    transform: Callable[[Any], Any] | None = None,  # from a PIL image to whatever the model takes
    *,
    download: bool = True,
) -> tuple[FashionMNIST, FashionMNIST]:
    """Fashion-MNIST, 60,000 images to train on and 10,000 to test on, of ten classes of clothes.

    Looked for in ``root`` (torchvision's folders, the four gz files, or Debian's package unpacked there), then where
    Debian's package is installed, then downloaded. Unpacked into ``root/FashionMNIST/raw``; every file's content is
    checked at every call (a few tenths of a second), so that a truncated one is never half used.

    Args:
        root: the data folder; made if it is not there.
        transform: called with each image, a grey PIL image of 28×28; None: the PIL image itself.
        download: False: what is not on this machine is an error at once.

    Returns:
        (train, test), two ``torchvision.datasets.FashionMNIST``: an item is (image, class number), ``.classes`` has
        the ten names, ``.data`` the images as uint8 (N, 28, 28), ``.targets`` the class numbers.

    Raises:
        FileNotFoundError: the files are nowhere and cannot be downloaded.
        ValueError: a file is truncated or not the right one.

    Source: H. Xiao, K. Rasul, R. Vollgraf, *Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms*, 2017.
    """
    dataset = import_torchvision().datasets.FashionMNIST
    root = Path(root)
    places = [root / "FashionMNIST" / "raw", root, root / DEBIAN_FOLDER.relative_to("/"), DEBIAN_FOLDER]
    hint = (
        f"`apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb {root}` gets them from Debian"
    )
    _prepare(dataset, root, _FASHION_MNIST, places, hint, download)
    return dataset(root, train=True, transform=transform), dataset(root, train=False, transform=transform)


def mnist(
    root: str | Path = "data",
    transform: Callable[[Any], Any] | None = None,  # from a PIL image to whatever the model takes
    *,
    download: bool = True,
) -> tuple[MNIST, MNIST]:
    """MNIST, 60,000 images to train on and 10,000 to test on, of the ten handwritten digits.

    Looked for in ``root`` (torchvision's folders, or the four gz files), then downloaded; otherwise as
    `fashion_mnist`.

    Args:
        root: the data folder; made if it is not there.
        transform: called with each image, a grey PIL image of 28×28; None: the PIL image itself.
        download: False: what is not on this machine is an error at once.

    Returns:
        (train, test), two ``torchvision.datasets.MNIST``.

    Raises:
        FileNotFoundError: the files are nowhere and cannot be downloaded.
        ValueError: a file is truncated or not the right one.
    """
    dataset = import_torchvision().datasets.MNIST
    root = Path(root)
    hint = f"put the four gz files of MNIST into {root}"
    _prepare(dataset, root, _MNIST, [root / "MNIST" / "raw", root], hint, download)
    return dataset(root, train=True, transform=transform), dataset(root, train=False, transform=transform)


def image_folder(
    root: str | Path,
    transform: Callable[[Any], Any] | None = None,  # from a PIL image to whatever the model takes
) -> ImageFolder:
    """Images in a folder for each class: torchvision's ``ImageFolder``, whose items are (image, class number).

    Args:
        root: the folder of the folders; their names, sorted, are ``.classes``.
        transform: called with each image, an RGB PIL image; None: the PIL image itself.

    Raises:
        FileNotFoundError: there is no such folder, no folder in it, or one without an image.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(f"image_folder takes a folder that has one folder for each class; {root} is no folder")
    return import_torchvision().datasets.ImageFolder(root, transform=transform, loader=open_rgb)


def _prepare(
    dataset: type[MNIST], root: Path, digests: dict[str, str], places: list[Path], hint: str, download: bool
) -> None:
    """Every file of ``digests`` lies whole in torchvision's raw folder, or the error says what to do."""
    raw = root / dataset.__name__ / "raw"
    missing = [name for name, digest in digests.items() if not _unpack(name, digest, raw, places)]
    if not missing:
        return
    names = ", ".join(f"{name}.gz" for name in missing)
    lacks = f"{dataset.__name__} needs {names}, not found in {', '.join(str(place) for place in places)}"
    if not download:
        raise FileNotFoundError(f"{lacks}; {hint}, or let download=True fetch them")
    try:
        dataset(root, download=True)
    except (URLError, RuntimeError) as error:  # torchvision gathers its mirrors' errors in a RuntimeError
        raise FileNotFoundError(f"{lacks}, and the download failed; {hint}") from error
    for name in missing:
        _unpack(name, digests[name], raw, places)


def _unpack(name: str, digest: str, raw: Path, places: list[Path]) -> bool:
    """Whether file ``name`` now lies in ``raw``, found there or unpacked from the first of ``places`` that has it."""
    if (raw / name).is_file():
        with (raw / name).open("rb") as plain:
            _check(raw / name, _copy(plain, None), digest)
        return True
    packed = next((place / f"{name}.gz" for place in places if (place / f"{name}.gz").is_file()), None)
    if packed is None:
        return False
    raw.mkdir(parents=True, exist_ok=True)
    temporary = raw / f".{name}.{os.getpid()}"
    try:
        with gzip.open(packed, "rb") as unpacked, temporary.open("wb") as target:
            found = _copy(unpacked, target)
        _check(packed, found, digest)
        os.replace(temporary, raw / name)  # a crash while unpacking leaves no half file under the real name
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{packed} cannot be unpacked ({error}); delete it and get it again") from error
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _copy(source: BinaryIO | gzip.GzipFile, target: BinaryIO | None) -> str:
    """The sha256 of all that ``source`` holds, written to ``target`` on the way."""
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        if target is not None:
            target.write(chunk)
    return digest.hexdigest()


def _check(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise ValueError(
            f"{path} is truncated or another file: its content has sha256 {found}, the published one has {expected}; "
            "delete it and get it again"
        )
