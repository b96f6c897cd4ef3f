"""Whether a function of a user's can be called once more than the loop does, and nobody notices."""

from __future__ import annotations

import copy
import dis
import functools
from collections.abc import Callable, Iterator
from numbers import Number
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["repeatable"]

_PLAIN = (Number, str, bytes, type(None), type, ModuleType, BuiltinFunctionType, Tensor, torch.dtype, torch.device)
_WRITES = ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_ATTR", "DELETE_ATTR")
_NOTICED = {"print", "open", "next", "setattr", "delattr", "exec", "eval", "input"}


def repeatable(function: Any) -> Callable[..., Any] | None:
    """What can be called in place of a function, and shows that to nobody; None where a call might be noticed.

    An object, or its method, is copied with what it holds. A plain function cannot be copied: it is itself where it
    writes to nothing outside of it, and what it reads there is a number, a tensor, a module, or another such function.

    >>> total = []
    >>> repeatable(lambda x: x + 1)(1), repeatable(lambda x: total.append(x))
    (2, None)
    """
    if isinstance(function, (FunctionType, functools.partial)):
        return function if _shows_nothing(function, set()) else None
    try:
        return copy.deepcopy(function)  # type: ignore[no-any-return]
    except Exception:  # it holds a lock, a file, a graph of gradients: whatever cannot be copied
        return None


def _shows_nothing(value: Any, seen: set[int]) -> bool:
    if isinstance(value, _PLAIN) or id(value) in seen:
        return True
    seen.add(id(value))
    if isinstance(value, FunctionType):
        if str(value.__module__).partition(".")[0] == "torch":
            return True
        codes = list(_codes(value.__code__))
        names = {name for code in codes for name in code.co_names}
        if names & _NOTICED or any(name.endswith("_") and not name.startswith("_") for name in names):  # add_, say
            return False
        if any(_writes_outside(step, value.__code__) for code in codes for step in dis.get_instructions(code)):
            return False
        outside = [value.__globals__[name] for name in names if name in value.__globals__]
        try:
            outside += [cell.cell_contents for cell in value.__closure__ or ()]
        except ValueError:  # one that has nothing in it yet
            return False
        outside += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return all(_shows_nothing(part, seen) for part in outside)
    if isinstance(value, functools.partial):
        return all(_shows_nothing(part, seen) for part in (value.func, *value.args, *value.keywords.values()))
    if isinstance(value, tuple):
        return all(_shows_nothing(part, seen) for part in value)
    return isinstance(value, nn.Module) and type(value).__module__ == "torch.nn.modules.loss"


def _writes_outside(step: dis.Instruction, code: CodeType) -> bool:
    if step.opname in ("STORE_DEREF", "DELETE_DEREF"):  # of a variable of its own, or of the function around it
        return step.argval in code.co_freevars
    return step.opname in _WRITES


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
