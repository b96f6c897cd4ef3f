"""Which device a model goes to."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["pick_device"]


def pick_device(device: Any = None) -> torch.device:
    """The device as torch names it.

    Args:
        device: what ``torch.device`` takes; None: cuda, else mps, else cpu.

    Raises:
        ValueError: torch does not know it, or has none here.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.empty(0, device=device).device
        if found.type == "meta":
            raise TypeError("tensors on it have no values")
        return found
    except (RuntimeError, AssertionError, TypeError) as error:
        here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        known = " or ".join(repr(name) for name, there in here.items() if there)
        raise ValueError(f"device is one that torch has here, such as {known}; got {device!r}") from error
