"""Where a process is: for ranks, which have to make the same calls in the same order."""

import os
import sys
import sysconfig
import traceback
from pathlib import Path

import ignite
import torch

__all__ = ["place_of_caller", "place_of_user"]

_LIBRARIES = tuple(os.path.join(Path(file).parent, "") for file in (__file__, torch.__file__, ignite.__file__))
_PYTHON, *_SITE = (os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "purelib", "platlib"))


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


def place_of_user() -> str:
    """The innermost line that is neither of this package nor of the libraries under it: file, line and what it says.

    >>> place_of_user().startswith("line 1 of <doctest")
    True
    """
    for frame in reversed(traceback.extract_stack()):
        in_python = frame.filename.startswith((_PYTHON, "<frozen")) and not frame.filename.startswith(tuple(_SITE))
        if not in_python and not frame.filename.startswith(_LIBRARIES):
            return f"line {frame.lineno} of {Path(frame.filename).name}" + (f", {frame.line}" if frame.line else "")
    return "the command line"
