"""Whether what is saved can be loaded again without running code: tensors and plain data can, all else cannot."""

from __future__ import annotations

import io
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.parameter import is_lazy

__all__ = ["UNKNOWN", "load_plain", "refuse_unloadable", "shapes_of"]

UNKNOWN = "unknown"
"""The shape of a parameter of a lazy module that has not been called yet."""


def load_plain(content: bytes) -> Any:
    """What ``torch.save`` wrote, its tensors on the CPU; code in it is not run, but refused by what torch raises."""
    with warnings.catch_warnings():  # torch warns of strange pickles, which it then refuses
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def shapes_of(state: Mapping[str, Any]) -> dict[str, tuple[int, ...] | str | None]:
    """The shapes of a model's state; None for what is no tensor, such as an extra state, ``UNKNOWN`` where it has none.

    >>> shapes_of({"weight": torch.zeros(2, 3), "_extra_state": {"version": 1}})
    {'weight': (2, 3), '_extra_state': None}
    """
    return {
        name: UNKNOWN if is_lazy(value) else tuple(value.shape) if isinstance(value, torch.Tensor) else None
        for name, value in state.items()
    }


def refuse_unloadable(state: dict[str, Any]) -> None:
    """Refuse a state that could be written and not be loaded, as no code in a checkpoint is run.

    Args:
        state: name → part, and of a part that is a dict, its keys are named too.

    Raises:
        TypeError: something else than tensors and plain data in it; says where.

    >>> refuse_unloadable({"history": [{"loss": 0.5}], "callbacks": {"EMA": torch.zeros(2)}})
    """
    if _loads(_without_tensors(state)):
        return
    parts = {name: part if isinstance(part, dict) else {"": part} for name, part in state.items()}
    bad = [
        f"{name} {key}".strip()
        for name, part in parts.items()
        for key in part
        if not _loads(_without_tensors(part[key]))
    ]
    raise TypeError(
        "a checkpoint holds tensors, numbers, strings, and dicts, lists and tuples of them, as it is loaded without "
        f"running code; something else is in {', '.join(bad)}: turn NumPy's numbers into Python's by .item()"
    )


def _loads(plain: Any) -> bool:
    buffer = io.BytesIO()
    try:
        torch.save(plain, buffer)
        load_plain(buffer.getvalue())
    except (pickle.PicklingError, pickle.UnpicklingError, AttributeError, TypeError):
        return False
    return True


def _without_tensors(value: Any) -> Any:
    """The same nest with None for each plain tensor, which is known to load."""
    if type(value) in (torch.Tensor, torch.nn.Parameter):
        return None
    if type(value) in (dict, OrderedDict):
        return {key: _without_tensors(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_without_tensors(part) for part in value)
    return value
