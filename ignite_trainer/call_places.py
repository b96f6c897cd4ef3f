"""Where a process is: the user's line, for messages, and this package's, for ranks that have to make the same calls."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from types import FrameType

__all__ = ["frame_of_user", "place_of_caller", "place_of_user"]

_ON_THE_WAY = {"ignite_trainer", "ignite", "contextlib", "torch"}


def frame_of_user() -> tuple[FrameType, int]:
    """The innermost frame outside this package and what it calls, and its ``stacklevel`` for the caller's warnings.

    Source: ``find_stack_level`` of pandas.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and (frame.f_globals.get("__name__") or "").partition(".")[0] in _ON_THE_WAY:
        frame, level = frame.f_back, level + 1
    return frame, level


def place_of_user() -> str:
    """The user's line that led here: file, line and what it says."""
    frame, _ = frame_of_user()
    text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return f"line {frame.f_lineno} of {Path(frame.f_code.co_filename).name}" + (f", {text}" if text else "")


def place_of_caller(module: str) -> str:
    """The line of this package that has called a function of a module; empty where a user's code has called it.

    It is the same on all ranks that do the same.

    Args:
        module: the module's ``__name__``.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") == module:
        frame = frame.f_back
    name = str(frame.f_globals.get("__name__"))
    return f"{name} {frame.f_lineno}" if name.startswith(f"{__package__}.") else ""
