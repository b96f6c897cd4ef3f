"""Warnings that name the user's line."""

from __future__ import annotations

import warnings

from .call_places import frame_of_user

__all__ = ["warn_user"]


def warn_user(message: str) -> None:
    """Warn at the line outside this package that led here, however many calls lie between."""
    _, level = frame_of_user()
    warnings.warn(message, stacklevel=level)
