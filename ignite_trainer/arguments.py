"""What a learner is made of, refused as it enters where it is of another kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from os import PathLike
from typing import Any, Generic, TypeVar

from torch import nn

__all__ = [
    "Fixed",
    "check_cbs",
    "check_folder",
    "check_model",
    "check_parts",
    "check_takes",
    "in_short",
    "is_number",
    "is_whole",
    "takes",
]

T = TypeVar("T")


class Fixed(Generic[T]):
    """An attribute that is given when its object is made, and cannot be changed afterwards.

    >>> class Box:
    ...     size = Fixed[int]()
    ...     def __init__(self, size): self.size = size
    >>> Box(3).size
    3
    >>> Box(3).size = 4
    Traceback (most recent call last):
    AttributeError: size is given when a Box is made, and has no effect later: make a new one with size=...
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: Any = None) -> T:
        if instance is None:
            return self  # type: ignore[return-value]  # asked of the class, as inspect does
        if self._name not in vars(instance):
            raise AttributeError(f"{type(instance).__name__} has no {self._name} yet")
        value: T = vars(instance)[self._name]
        return value

    def __set__(self, instance: Any, value: T) -> None:
        if self._name in vars(instance):
            raise AttributeError(
                f"{self._name} is given when a {type(instance).__name__} is made, and has no effect later: make a new "
                f"one with {self._name}=..."
            )
        vars(instance)[self._name] = value


def check_parts(model: Any, loss_func: Any, opt_func: Any, cbs: Any, *, call: str, own_step: bool = False) -> None:
    """Refuse parts that are classes, stand in another's place, or cannot be called.

    Args:
        model: a module.
        loss_func: called with (preds, y); None is left to a step of one's own.
        opt_func: called with (parameters, lr); None is not looked at.
        cbs: an iterable.
        call: what the caller is called with, for the message.
        own_step: there is a step of one's own, which may do without ``loss_func``.

    Raises:
        TypeError: one of them is something else.

    >>> check_parts(nn.Linear(1, 1), nn.MSELoss, None, [], call="fit(...)")
    Traceback (most recent call last):
    TypeError: loss_func is called with (preds, y), as in fit(...); got the class MSELoss: make an instance of it
    """
    check_model(model, call=call)
    needed = loss_func is not None or not own_step
    if needed and (isinstance(loss_func, type) or not callable(loss_func)):
        raise TypeError(f"loss_func is called with (preds, y), as in {call}; got {_called(loss_func)}")
    if opt_func is not None and not callable(opt_func):
        way_out = ": give it as optimizer=..., without lr" if hasattr(opt_func, "step") else ""
        raise TypeError(
            f"opt_func makes an optimizer from (parameters, lr), as torch.optim.Adam; got {_called(opt_func)}{way_out}"
        )
    check_cbs(cbs)


def check_cbs(cbs: Any) -> None:
    """Refuse what is no list of callbacks.

    Raises:
        TypeError: it cannot be gone through.
    """
    if not isinstance(cbs, Iterable):
        way_out = "leave it out" if cbs is None else "put it into a list"
        raise TypeError(f"cbs is a list of callbacks; got {_called(cbs)}: {way_out}")


def check_takes(name: str, function: Any, *arguments: str) -> None:
    """Refuse what cannot be called with so many arguments; None is none.

    Raises:
        TypeError: it is something else.

    >>> check_takes("loss_size", lambda preds, y: len(y), "preds", "y")
    >>> check_takes("loss_size", 5, "preds", "y")
    Traceback (most recent call last):
    TypeError: loss_size is called with (preds, y); got an int: give a function, lambda preds, y: ...
    >>> check_takes("loss_size", lambda y: len(y), "preds", "y")
    Traceback (most recent call last):
    TypeError: loss_size is called with (preds, y), which the function given does not take: lambda preds, y: ...
    """
    taken, way_out = f"({', '.join(arguments)})", f"lambda {', '.join(arguments)}: ..."
    if function is not None and not callable(function):
        raise TypeError(f"{name} is called with {taken}; got {_called(function)}: give a function, {way_out}")
    if function is not None and not takes(function, *arguments, follow_wrapped=False):
        raise TypeError(f"{name} is called with {taken}, which the function given does not take: {way_out}")


def check_model(model: Any, *, call: str) -> None:
    """Refuse a model that is no module.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is an nn.Module, as in {call}; got {_called(model)}")


def check_folder(folder: Any, way_out: str = "give it as a string or a Path") -> None:
    """Refuse a folder that is no path; None is one that is chosen later.

    Raises:
        TypeError: it is something else.

    >>> check_folder(50)
    Traceback (most recent call last):
    TypeError: folder is a path; got 50: give it as a string or a Path
    """
    if folder is not None and not isinstance(folder, (str, PathLike)):
        raise TypeError(f"folder is a path; got {folder!r}: {way_out}")


def is_number(value: object) -> bool:
    """Whether a value is a number, Python's or NumPy's; no string, and no True.

    >>> is_number(0.5), is_number("0.5"), is_number(True)
    (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether a value is an integer, Python's or NumPy's; True is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def takes(function: Callable[..., Any], *arguments: Any, follow_wrapped: bool = True) -> bool:
    """Whether a function can be called with so many arguments; True where it does not tell.

    >>> takes(len, []), takes(lambda: None, 1)
    (True, False)
    """
    try:
        inspect.signature(function, follow_wrapped=follow_wrapped).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # some functions in C have no signature
        return True
    return True


def _called(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}: make an instance of it"
    return repr(value) if value is None or isinstance(value, str) else a_kind(value)


def a_kind(value: Any) -> str:
    """The name of a value's class, with its article.

    >>> a_kind([]), a_kind(5)
    ('a list', 'an int')
    """
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def in_short(value: Any) -> str:
    """A value for a message; its class where it would fill lines.

    >>> in_short(2.5), in_short([[1] * 1000])
    ('2.5', 'a list')
    """
    text = repr(value)
    return text if len(text) <= 80 else a_kind(value)
