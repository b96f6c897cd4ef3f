"""Nests of tuples, lists and dicts with tensors in them, as batches and what models give are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

__all__ = ["bytes_of", "map_leaves", "tensors_in"]


def map_leaves(nest: Any, change: Callable[[Any], Any]) -> Any:
    """The same nest with everything in it changed that is no tuple, list or dict; a ``PackedSequence`` is one thing.

    >>> map_leaves({"a": [1, (2, 3)]}, lambda number: 10 * number)
    {'a': [10, (20, 30)]}
    """
    if isinstance(nest, dict):
        changed = {key: map_leaves(part, change) for key, part in nest.items()}
        if type(nest) is dict:
            return changed
        try:
            same_kind = copy.copy(nest)  # with a default, with attributes
            for key, part in changed.items():  # one by one: a Counter that is updated adds up
                same_kind[key] = part
        except Exception:  # whatever a kind raises that cannot be copied, as one whose __getattr__ looks up keys
            return changed
        return same_kind
    if not isinstance(nest, (tuple, list)) or isinstance(nest, PackedSequence):
        return change(nest)
    parts = (map_leaves(part, change) for part in nest)
    return type(nest)(*parts) if hasattr(nest, "_fields") else type(nest)(parts)  # a named tuple takes them one by one


def bytes_of(tensor: Tensor) -> bytes:
    """A tensor's numbers as they lie in memory, in the order of its elements.

    >>> import torch
    >>> bytes_of(torch.tensor([1, 2], dtype=torch.uint8))
    b'\\x01\\x02'
    """
    numbers = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return numbers.numpy().tobytes()


def tensors_in(nest: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a nest, in order, each with its path.

    >>> import torch
    >>> [path for path, _ in tensors_in({"a": [torch.ones(1), None]}, "x")]
    ["x['a'][0]"]
    """
    if isinstance(nest, Tensor):
        yield path, nest
    elif isinstance(nest, dict):
        for key, part in nest.items():
            yield from tensors_in(part, f"{path}[{key!r}]")
    elif isinstance(nest, (tuple, list)):
        for i, part in enumerate(nest):
            yield from tensors_in(part, f"{path}[{i}]")
