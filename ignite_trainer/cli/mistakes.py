"""A user's mistakes: what they are, and how an error that a user can do something about becomes one."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..data import SampleError

__all__ = ["UserMistake", "mistakes"]

_PACKAGE = Path(__file__).parents[1]


class UserMistake(Exception):
    """What a user got wrong, in one line; commands end with exit code 2."""


@contextmanager
def mistakes(what: str = "") -> Iterator[None]:
    """In here the errors that this package raises on purpose become a `UserMistake`; all others stay what they are.

    Raised on purpose is a ValueError, TypeError, ImportError or OSError by a ``raise`` of ours: it says the rule and
    what came. An error of the disk, and a sample that cannot be read, are no bugs either.

    Args:
        what: words before the message, such as a flag.

    >>> with mistakes("--data"):
    ...     raise SampleError("sample 3 cannot be read")
    Traceback (most recent call last):
    ignite_trainer.cli.mistakes.UserMistake: --data: sample 3 cannot be read
    """
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError, SampleError) as error:
        if not _is_said_to_users(error):
            raise
        raise UserMistake(f"{what}: {in_one_line(error)}" if what else in_one_line(error)) from error


def in_one_line(error: BaseException) -> str:
    """The text of an error; of one from a worker process, whose text begins with a traceback, the last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, SampleError) and len(lines) > 1:
        return lines[-1].partition("SampleError: ")[2] or lines[-1]
    return " ".join(lines)


def _is_said_to_users(error: Exception) -> bool:
    if isinstance(error, SampleError) or (isinstance(error, OSError) and error.filename is not None):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    return Path(last.filename).is_relative_to(_PACKAGE) and (last.line or "").startswith("raise")
