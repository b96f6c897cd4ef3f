"""What each rank adds to a checkpoint, and what it takes out of one, also of another number of ranks."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from .collectives import all_objects, of_main
from .metrics import Loss
from .nests import bytes_of

__all__ = ["gather_states", "state_of_rank"]

_OWN = ("rng", "train_loss", "epoch_start")
_PARTS_THAT_DIFFER = ("callbacks", "model", "loss")


def gather_states(state: dict[str, Any], buffers: Mapping[str, Collection[str]]) -> list[dict[str, Any]]:
    """Of every rank what is its own in its snapshot: generators, sums; callbacks' states and buffers that differ.

    Args:
        state: this rank's ``snapshot``.
        buffers: of its parts "model" and "loss", the names of those, such as running statistics, that may differ.

    Returns:
        A dict for each rank, for ``state["ranks"]``, the same on all of them.
    """
    may_differ = {"callbacks": state["callbacks"]}
    for part, names in buffers.items():
        may_differ[part] = {name: tensor for name, tensor in state[part].items() if name in names}
    digests = {part: {name: _digest(value) for name, value in values.items()} for part, values in may_differ.items()}
    of_rank_0 = of_main(digests)
    mine = {name: state[name] for name in _OWN}
    mine["generators"] = [state[phase].get("generators") for phase in ("train", "valid")]
    for part, values in may_differ.items():
        mine[part] = {name: v for name, v in values.items() if digests[part][name] != of_rank_0[part].get(name)}
    return all_objects(mine)


def state_of_rank(state: dict[str, Any], rank: int, world: int) -> dict[str, Any]:
    """The snapshot of one rank, out of a checkpoint that any number of ranks has saved.

    With as many ranks as saved it, each goes on with its own. With another number they go on with the weights, the
    place and the sums; the random generators of those that are new begin as another's.

    Args:
        state: what a checkpoint holds.
        rank, world: this process and the number of processes.
    """
    saved = state.get("ranks") or [state]
    own = saved[rank % len(saved)]
    result = {**state, **{name: own[name] for name in _OWN}}
    result.pop("ranks", None)
    if len(saved) != world:
        result["train_loss"] = _sum_of_losses(saved, whole=rank == 0)
    elif world > 1:
        for part in _PARTS_THAT_DIFFER:
            result[part] = copy.copy(state[part])  # with the versions of its modules
            result[part].update(own.get(part, {}))
        for phase, generators in zip(("train", "valid"), own["generators"], strict=True):
            if generators is not None:
                result[phase] = {**state[phase], "generators": generators}
    return result


def _sum_of_losses(saved: list[dict[str, Any]], *, whole: bool) -> list[Any] | None:
    states = [own["train_loss"] for own in saved]
    if any(state is None for state in states):
        return None  # between two epochs
    if not whole:
        return [0.0, 0]
    losses = [Loss() for _ in states]
    for loss, state in zip(losses, states, strict=True):
        loss.load(state, torch.device("cpu"))
    return [sum(part) for part in zip(*(loss.sums() for loss in losses), strict=True)]


def _digest(value: Any) -> bytes:
    """A hash of a nest of tensors and plain data."""
    digest = blake2b(digest_size=16)
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(bytes_of(value))
    elif isinstance(value, dict):
        for key, part in value.items():
            digest.update(repr(key).encode() + _digest(part))
    elif isinstance(value, (list, tuple)):
        digest.update(b"".join([str(len(value)).encode(), *map(_digest, value)]))
    else:
        digest.update(repr(value).encode())
    return digest.digest()
