"""Warnings that name the user's line."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn_user"]

_ON_THE_WAY = {"ignite_trainer", "ignite", "contextlib", "torch"}


def warn_user(message: str) -> None:
    """Warn at the line outside this package that led here, however many calls lie between.

    Source: ``find_stack_level`` of pandas.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and (frame.f_globals.get("__name__") or "").partition(".")[0] in _ON_THE_WAY:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
