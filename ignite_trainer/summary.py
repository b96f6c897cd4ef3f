"""A summary of a model: its layers, the shapes of their outputs, their parameters."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from .modes import modes_kept
from .rng import rng_kept

__all__ = ["summarize"]


def summarize(model: nn.Module, x: Any) -> str:
    """A table of the layers in the order in which one forward pass calls them; nothing of the model is changed.

    Args:
        model: run on x in evaluation mode, without gradients; random numbers drawn meanwhile are given back.
        x: an input as the model takes it, on its device.

    >>> print(summarize(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.zeros(2, 4)))
    layer  type    output   parameters
    0      Linear  (2, 3)           15
    1      ReLU    (2, 3)            0
    total 15 parameters, 15 trainable
    """
    if any(map(is_lazy, [*model.parameters(), *model.buffers()])):
        model = _copy_of_lazy(model)  # the call gives it its shapes
    rows: list[tuple[str, str, str, int]] = []
    hooks, seen = [], set[nn.Module]()
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):  # it takes no hooks: the total alone is told
            continue
        is_leaf = next(module.children(), None) is None
        has_own = next(module.parameters(recurse=False), None) is not None
        if is_leaf or has_own:

            def note(layer: nn.Module, _: Any, output: Any, name: str = name) -> None:
                seen.add(layer)
                uncalled = [child for child in layer.modules() if child is not layer and child not in seen]
                seen.update(uncalled)  # whose weights the layer itself uses, as MultiheadAttention does
                used = [layer, *uncalled]
                n = sum(parameter.numel() for part in used for parameter in part.parameters(recurse=False))
                rows.append((name or type(model).__name__, type(layer).__name__, _shape(output), n))

            hooks.append(module.register_forward_hook(note))
    try:
        with modes_kept(model), torch.no_grad(), rng_kept():
            model.eval()(x)
    finally:
        for hook in hooks:
            hook.remove()
    return _table(model, rows)


def _copy_of_lazy(model: nn.Module) -> nn.Module:
    memo = {  # deepcopy of torch 2.13 cannot make these
        id(buffer): UninitializedBuffer(device=buffer.device, dtype=buffer.dtype)  # type: ignore[call-arg]
        for buffer in filter(is_lazy, model.buffers())
    }
    return copy.deepcopy(model, memo)


def _shape(output: Any) -> str:
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    if isinstance(output, (tuple, list)):
        return ", ".join(_shape(part) for part in output)
    return type(output).__name__


def _table(model: nn.Module, rows: list[tuple[str, str, str, int]]) -> str:
    head = ("layer", "type", "output", "parameters")
    widths = [max(len(str(row[column])) for row in [head, *rows]) for column in range(4)]
    lines = [
        f"{name:{widths[0]}}  {kind:{widths[1]}}  {shape:{widths[2]}}  {n:>{widths[3]}}"
        for name, kind, shape, n in [head, *rows]
    ]
    n_all = sum(parameter.numel() for parameter in model.parameters())
    n_trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return "\n".join([*lines, f"total {n_all:,} parameters, {n_trainable:,} trainable"])
