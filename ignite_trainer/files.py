"""Files that are whole or not there: written aside, made durable, then renamed; read only if their sum is right."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

__all__ = [
    "Aside",
    "DamagedFile",
    "new_run_folder",
    "read_verified",
    "remove_with_sum",
    "sum_file",
    "write_aside",
    "write_whole",
]


class DamagedFile(ValueError):
    """A file whose content is not what was written."""


class Aside:
    """Where the handlers of one fit put the files that an earlier fit has left in its folder.

    >>> Aside().move([], Path("runs/mlp"))
    """

    def __init__(self) -> None:
        self._places: dict[Path, Path] = {}

    def move(self, paths: Iterable[Path], folder: Path) -> Path | None:
        """Move files into ``earlier-1``, ``earlier-2``, … below a folder, all of this fit into the same one.

        Args:
            paths: files; none makes no folder.
            folder: they are in.

        Returns:
            Where they are now; None: there were none.
        """
        paths = list(paths)
        if not paths:
            return None
        if folder not in self._places:
            numbers = [path.name.removeprefix("earlier-") for path in folder.glob("earlier-*")]
            newest = max((int(number) for number in numbers if number.isdecimal()), default=0)
            self._places[folder] = folder / f"earlier-{newest + 1}"
        earlier = self._places[folder]
        earlier.mkdir(exist_ok=True)
        for path in paths:
            path.replace(earlier / path.name)
        return earlier


class _Summed:
    """A file being written, with the sha256 of what goes in, and the first error that the disk gave."""

    def __init__(self, file: BinaryIO):
        self.file, self.sha256 = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self.sha256.update(data)
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


def write_whole(path: Path, write: Callable[[Any], None]) -> None:
    """Write a file so that a crash at any moment leaves the former content or the new one, and its sum beside it.

    ``write`` fills a temporary file in the same folder; it is flushed, synced and renamed, then the folder is synced.
    While both contents are possible, ``path.sha256`` has the sums of both.

    Args:
        path: the file; its folder is made.
        write: called with an object that has ``write(bytes)`` and ``flush()``.

    Raises:
        OSError: the first error of the disk, with the path; the former state is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sums = sum_file(path)
    former = sums.read_text() if sums.exists() and path.exists() else ""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        new = _write_synced(temporary, write)
        _replace_text(sums, f"{new}\n{former}")  # a crash from here on leaves old or new, and both sums are there
        os.replace(temporary, path)
        _sync_folder(path.parent)
        _replace_text(sums, f"{new}\n")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_aside(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file without a sum, for other programs: a crash at any moment leaves the former content or the new one.

    Whoever may read a new file of this process may read it.

    Args:
        path: the file; its folder is made.
        write: called with the path of a file beside it, of the same ending, which then takes its place.

    Raises:
        OSError: the disk is full, or the folder cannot be written; the former file is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors 0.8 makes a file that nobody else may read
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def new_run_folder(*, make: bool = True) -> Path:
    """Make the folder of a run that begins now, ``runs/YYYYmmdd-HHMMSS``; where one has that of this second, the next.

    Args:
        make: False: name it only, for a rank that does not write.
    """
    runs, name = Path("runs"), datetime.now().strftime("%Y%m%d-%H%M%S")
    with suppress(OSError):  # a disk that fails is said by who writes there
        if make:
            runs.mkdir(parents=True, exist_ok=True)
    for path in (runs / name, *(runs / f"{name}-{number}" for number in range(2, 1000))):
        try:
            if make:
                path.mkdir()
            elif path.exists():
                continue
        except FileExistsError:
            continue
        except OSError:
            pass
        return path
    raise FileExistsError(f"a run has a folder of its own; {runs} has a thousand of {name}: give folder=...")


def read_verified(path: Path) -> bytes:
    """The content of a file that ``write_whole`` wrote.

    Raises:
        DamagedFile: it is not that content, or cannot be read, or has no sum.
    """
    if path.is_dir():
        raise DamagedFile(f"{path} is a folder; one file in it is needed")
    if path.exists() and not sum_file(path).exists():
        raise DamagedFile(f"{path} has no sum beside it, {sum_file(path).name}: copy both, or take one that has it")
    try:
        content, sums = path.read_bytes(), sum_file(path).read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{path} or its sum cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() not in sums:
        raise DamagedFile(f"{path} is not what was written there: its sha256 is not that in {sum_file(path).name}")
    return content


def remove_with_sum(path: Path) -> None:
    """Delete a file and its sum."""
    path.unlink(missing_ok=True)
    sum_file(path).unlink(missing_ok=True)


def sum_file(path: Path) -> Path:
    """Where the sum of a file that ``write_whole`` wrote stands."""
    return path.with_name(f"{path.name}.sha256")


def _write_synced(path: Path, write: Callable[[Any], None]) -> str:
    summed = None
    try:
        with path.open("wb") as file:
            summed = _Summed(file)
            write(summed)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    except Exception as error:
        if summed is None or summed.error is None:
            raise
        raise OSError(summed.error.errno, summed.error.strerror, str(path)) from error  # torch hides it
    return summed.sha256.hexdigest()


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        _write_synced(temporary, lambda file: file.write(text.encode()))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
