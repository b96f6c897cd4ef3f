"""What a learner is made of, refused as it enters where it is of another kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

__all__ = ["check_parts"]


def check_parts(model: Any, loss_func: Any, opt_func: Any, cbs: Any) -> None:
    """Refuse parts that are classes, stand in another's place, or cannot be called.

    Args:
        model: a module.
        loss_func: called with (preds, y); None is left to a step of one's own.
        opt_func: called with (parameters, lr).
        cbs: an iterable.

    Raises:
        TypeError: one of them is something else.

    >>> check_parts(nn.Linear(1, 1), nn.MSELoss, None, [])
    Traceback (most recent call last):
    TypeError: loss_func is called with (preds, y); got the class MSELoss: make an instance of it
    """
    if not isinstance(model, nn.Module):
        way_out = "make an instance of it" if isinstance(model, type) else "the order is (model, dls, loss_func, lr)"
        raise TypeError(f"model is an nn.Module; got {_called(model)}: {way_out}")
    if isinstance(loss_func, type):
        raise TypeError(f"loss_func is called with (preds, y); got {_called(loss_func)}: make an instance of it")
    if loss_func is not None and not callable(loss_func):
        raise TypeError(
            f"loss_func is called with (preds, y); got {_called(loss_func)}: the order is (model, dls, loss_func, lr)"
        )
    if not callable(opt_func):
        raise TypeError(
            f"opt_func is called with (parameters, lr) and makes an optimizer; got {_called(opt_func)}: give one that "
            "is made already as optimizer=..., without lr"
        )
    if not isinstance(cbs, Iterable):
        raise TypeError(f"cbs is a list of callbacks; got {_called(cbs)}: put it into a list")


def _called(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
