"""What the ranks of a run tell each other: numbers, objects and tensors, each by a call that all of them make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from zlib import crc32

import torch
import torch.distributed as dist

from .call_places import place_of_caller, place_of_user
from .distributed import host_group, is_main, together, world_size
from .nests import map_leaves

__all__ = [
    "all_numbers",
    "all_objects",
    "barrier",
    "of_main",
    "on_main",
    "share_tensors",
    "sum_float64",
    "sum_in_place",
]

_AT_ONCE = 256  # so many numbers travel in an exchange of one size, 2 kB: as fast as a single one


def all_numbers(mine: Sequence[float], kind: str = "") -> list[list[float]]:
    """What every rank gives, in the order of the ranks, on all of them.

    The other calls here begin with it. As it is one exchange of one size, whatever is asked for, ranks that do not make
    the same calls notice that, where otherwise they would wait for ever or add up what is not the same.

    Args:
        mine: numbers, as many on all ranks.
        kind: what is the same on all ranks, besides the line of this package that calls.

    Raises:
        RuntimeError: another rank makes another call; on all of them.

    >>> all_numbers([1, 2])
    [[1, 2]]
    """
    if world_size() == 1:
        return [list(mine)]
    call = f"{place_of_caller(__name__)} {kind} {len(mine)}"
    numbers = torch.tensor([crc32(call.encode()), *mine], dtype=torch.float64)
    first = torch.zeros(_AT_ONCE, dtype=torch.float64)
    n_first = min(len(numbers), _AT_ONCE)
    first[:n_first] = numbers[:n_first]
    everybodys = [theirs[:n_first] for theirs in _gather(first)]
    if any(theirs[0] != numbers[0] for theirs in everybodys):
        raise RuntimeError(_different_calls(call))
    if n_first < len(numbers):
        rest = _gather(numbers[n_first:])
        everybodys = [torch.cat(parts) for parts in zip(everybodys, rest, strict=True)]
    return [theirs[1:].tolist() for theirs in everybodys]


def sum_float64(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all ranks, as exact as float64 is, or int64 for integers and bools.

    The tensor itself if there is one process; else a new one, detached, in the wide type.

    Args:
        tensor: of one shape on all ranks; on the CPU nothing waits for another device.

    Raises:
        PeerLost: another rank is gone, here and in all that follow.

    >>> sum_float64(torch.tensor([1.5, 2.5], dtype=torch.float64))
    tensor([1.5000, 2.5000], dtype=torch.float64)
    """
    if world_size() == 1:
        return tensor
    all_numbers((), f"sum of {tuple(tensor.shape)} on {tensor.device.type}")
    wide = torch.float64 if tensor.is_floating_point() else torch.int64
    total = tensor.detach().to(wide, copy=True)
    sum_in_place(total)
    return total


def sum_in_place(tensor: torch.Tensor) -> None:
    """Makes a tensor the sum of all ranks' tensors, the same bits on every rank, which are at the same call.

    >>> sum_in_place(torch.ones(2))
    """
    if world_size() > 1:
        with together():
            dist.all_reduce(tensor, group=host_group() if tensor.is_cpu else None)


def all_objects(mine: Any) -> list[Any]:
    """What every rank gives, in the order of the ranks, on all of them; plain data and tensors, which come on the CPU.

    >>> all_objects("a")
    ['a']
    """
    all_numbers(())
    return _gather_objects(map_leaves(mine, lambda leaf: leaf.cpu() if isinstance(leaf, torch.Tensor) else leaf))


def of_main(mine: Any) -> Any:
    """What rank 0 gives, on all ranks.

    >>> of_main("a")
    'a'
    """
    given = [mine]
    if world_size() > 1:
        all_numbers(())
        with together():
            dist.broadcast_object_list(given, src=0, group=host_group())
    return given[0]


def share_tensors(tensors: Iterable[torch.Tensor], source: int = 0) -> None:
    """Fills tensors, in place, with those of one rank; all of a type and a device travel together.

    Args:
        tensors: of the same types, shapes and devices on all ranks.
        source: the rank whose they are.
    """
    if world_size() == 1:
        return
    alike: dict[Any, list[torch.Tensor]] = {}
    for tensor in tensors:
        alike.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
    for group in alike.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        all_numbers((), f"{len(group)} {flat.dtype} {flat.numel()} of {source} on {flat.device.type}")
        with together():
            # as bytes: gloo carries neither 16-bit integers nor 8-bit floats
            dist.broadcast(flat.view(torch.uint8), source, group=host_group() if flat.is_cpu else None)
        for tensor, part in zip(group, torch.split(flat, [tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def on_main(action: Callable[[], None]) -> None:
    """Does something on rank 0, while the others wait; an exception there is one on all of them.

    Raises:
        RuntimeError: on the other ranks, where it has raised on rank 0.

    >>> on_main(lambda: print("written"))
    written
    """
    error: Exception | None = None
    if is_main():
        try:
            action()
        except Exception as raised:
            error = raised
    failed = of_main(None if error is None else str(error))
    if error is not None:
        raise error
    if failed is not None:
        raise RuntimeError(f"what rank 0 does for all has failed there: {failed}")


def barrier() -> None:
    """Waits until every rank is here.

    >>> barrier()
    """
    all_numbers(())


def _gather(mine: torch.Tensor) -> list[torch.Tensor]:
    everybodys = [torch.empty_like(mine) for _ in range(world_size())]
    with together():
        dist.all_gather(everybodys, mine, group=host_group())
    return everybodys


def _gather_objects(mine: Any) -> list[Any]:
    everybodys = [mine] * world_size()
    if world_size() > 1:
        with together():
            dist.all_gather_object(everybodys, mine, group=host_group())
    return everybodys


def _different_calls(call: str) -> str:
    """What ranks are told that are at different calls; they all ask for it together."""
    places, calls = zip(*_gather_objects((place_of_user(), call)), strict=True)
    if len(set(places)) == 1:
        places = tuple(f"{place} ({' '.join(call.split())})" for place, call in zip(places, calls, strict=True))
    ranks_at: dict[str, list[str]] = {}
    for number, place in enumerate(places):
        ranks_at.setdefault(place, []).append(str(number))
    listed = "; ".join(
        f"rank{'s' * (len(ranks) > 1)} {', '.join(ranks)} at {place}" for place, ranks in ranks_at.items()
    )
    return (
        f"all ranks make the same calls in the same order; here came {listed}: call evaluate, predict, save and the "
        "like on every rank; in a callback, in after_step, after_epoch or after_validate, to which all ranks come"
    )
