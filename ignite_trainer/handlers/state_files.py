"""The files of checkpoints and crash reports: written whole, in a thread if need be, pruned, found and loaded again."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import torch

from ..files import DamagedFile, read_verified, remove_with_sum, write_whole
from ..loadable import load_plain, refuse_unloadable
from ..nests import map_leaves
from ..user_warnings import warn_user

__all__ = ["StateWriter", "load_checkpoint", "load_state", "newest_checkpoint", "newest_first"]


class StateWriter:
    """Writes states one after the other; in the background at most one at a time, whose failure is raised later.

    Attributes:
        failure: what went wrong in the background and was not raised yet.

    Raises:
        TypeError: a state that could not be loaded again.
        OSError: the disk is full, or the folder is gone; what was there is whole.
    """

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def write(self, path: Path, state: dict[str, Any], *, keep: int | None = None, background: bool = False) -> None:
        """Write a state, once the one before is written.

        Args:
            path: the file.
            state: plain data; a copy of it is made for the background.
            keep: how many checkpoints of its folder stay, the newest and this one; None: all.
            background: return at once.
        """
        refuse_unloadable(state)
        self.wait()
        self.raise_failure()
        if not background:
            _write(path, state, keep)
            return
        state = map_leaves(state, _copied)  # the fit goes on meanwhile

        def write() -> None:
            try:
                _write(path, state, keep)
            except BaseException as error:
                self.failure = error

        self._thread = threading.Thread(target=write, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait for the file that is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def raise_failure(self) -> None:
        """Raise what went wrong in the background, once."""
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a folder."""
    # from step 10**8 on a name is longer
    return sorted(folder.glob("step-*.pt"), key=lambda path: (len(path.name), path.name), reverse=True)


def newest_checkpoint(folder: Path) -> tuple[dict[str, Any], Path] | None:
    """The newest checkpoint of a folder that is whole, and its path; None if there never was one.

    Warns:
        UserWarning: of each newer one that is damaged.

    Raises:
        ValueError: there are some, and all are damaged.
    """
    damaged = []
    for path in newest_first(folder):
        try:
            return load_checkpoint(path), path
        except DamagedFile as error:
            damaged.append(str(error))
            warn_user(f"{error}; an older checkpoint is looked for")
    if damaged:
        raise ValueError(f"a run goes on from a whole checkpoint, and none in {folder} is: {'; '.join(damaged)}")
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's state; no code in it is run.

    Raises:
        DamagedFile: it is not what was written.
    """
    return load_state(path, "checkpoint", 1, "take a step-….pt of the run")


def load_state(path: Path, kind: str, form: int | str, way_out: str) -> dict[str, Any]:
    """What was saved there; no code in it is run.

    Args:
        path: the file.
        kind: what it should be, and ``way_out``, for the message.
        form: the ``format`` that it has to say of itself.

    Raises:
        DamagedFile: it is not what was written, or something else.
    """
    content = read_verified(path)
    try:
        state = load_plain(content)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise DamagedFile(f"{path} is no {kind}: {type(error).__name__} while it was loaded") from error
    if not isinstance(state, dict) or state.get("format") != form:
        raise DamagedFile(f"{path} is no {kind} of this version: {way_out}")
    return state


def _write(path: Path, state: dict[str, Any], keep: int | None) -> None:
    write_whole(path, lambda file: torch.save(state, file))
    if keep is not None:
        for old in [other for other in newest_first(path.parent) if other != path][keep - 1 :]:
            remove_with_sum(old)


def _copied(value: Any) -> Any:
    """A leaf of a state, a tensor on the CPU."""
    return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else copy.deepcopy(value)
