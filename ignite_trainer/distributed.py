"""Ranks: which of a run's processes this one is, and the few numbers they tell each other."""

import atexit
import gc
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import ignite.distributed as idist
import torch
import torch.distributed as dist

from .rendezvous import meet

__all__ = [
    "PeerLost",
    "all_objects",
    "barrier",
    "finalize",
    "initialize",
    "is_main",
    "of_main",
    "on_main",
    "rank",
    "share_tensors",
    "sum_float64",
    "sum_in_place",
    "world_size",
]

_LOST = re.compile("connect|closed|reset by peer|broken pipe|socket|timed out|timeout|aborted", re.IGNORECASE)

# where numbers on the CPU are told, by the group of all ranks, None where that can itself. Known weakly: a group that
# lives on after it was destroyed keeps its threads, and a gloo rank that exits with them aborts now and then
_host_groups: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_broken = _peers_lost = False  # a collective has failed; and that was because another rank is gone


class PeerLost(SystemExit):
    """Another rank is gone: this one ends with code 1 and one line, so that the other's traceback stays in sight."""


def rank() -> int:
    """The number of this process among those of the run, 0 if it is the only one.

    Asks torch, not Ignite: the first thing Ignite 0.5.5 does with a group it did not make is a collective, so that one
    rank which asks alone waits for the others.

    >>> rank()
    0
    """
    return dist.get_rank() if _has_group() else 0


def world_size() -> int:
    """The number of processes of the run, 1 if there is no group.

    >>> world_size()
    1
    """
    return dist.get_world_size() if _has_group() else 1


def is_main() -> bool:
    """Whether this process is the one that prints and writes, rank 0.

    >>> is_main()
    True
    """
    return rank() == 0


def initialize(device: torch.device | str | None = None) -> bool:
    """Joins the processes that torchrun started into a group, which is left when the process ends.

    A group that exists is used as it is, and is its maker's to destroy. Every rank has to call this.

    Args:
        device: what the run computes on, "cuda" for nccl, anything else for gloo; None for cuda if there is one.

    Returns:
        Whether this call made a group: not if there was one, and not if WORLD_SIZE is absent or 1.

    Raises:
        ValueError: on cuda, where nothing says which device is this rank's.

    >>> initialize()
    False
    """
    made = not _has_group() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if made:
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        if torch.device(device or kind).type == "cuda":
            if "LOCAL_RANK" not in os.environ:
                raise ValueError(
                    "ranks on cuda have a device each, which LOCAL_RANK says; WORLD_SIZE is set and that is not: start "
                    "them with torchrun"
                )
            own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(own)
            dist.init_process_group("nccl", device_id=own, **meet())
        else:
            dist.init_process_group("gloo", **meet())
        atexit.register(_finalize_at_exit)
    if _has_group():
        idist.get_world_size()  # Ignite's collective, here where every rank is
        _make_host_group()
    return made


def finalize() -> None:
    """Leaves the group, if there is one; not after an exception, when the other ranks may be waiting in a collective.

    >>> finalize()
    """
    if _has_group():
        # two gloo ranks with a DistributedDataParallel model still alive aborted in 4 exits of 16
        gc.collect()
        dist.destroy_process_group()
        idist.sync()


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
    wide = torch.float64 if tensor.is_floating_point() else torch.int64
    total = tensor.detach().to(wide, copy=True)
    sum_in_place(total)
    return total


def sum_in_place(tensor: torch.Tensor) -> None:
    """Makes a tensor the sum of all ranks' tensors, the same bits on every rank.

    >>> sum_in_place(torch.ones(2))
    """
    if world_size() > 1:
        with _together():
            dist.all_reduce(tensor, group=_host_group() if tensor.is_cpu else None)


def all_objects(mine: Any) -> list[Any]:
    """What every rank gives, in the order of the ranks, on all of them; plain data and tensors.

    >>> all_objects("a")
    ['a']
    """
    everybodys = [mine] * world_size()
    if world_size() > 1:
        with _together():
            dist.all_gather_object(everybodys, mine, group=_host_group())
    return everybodys


def of_main(mine: Any) -> Any:
    """What rank 0 gives, on all ranks.

    >>> of_main("a")
    'a'
    """
    given = [mine]
    if world_size() > 1:
        with _together():
            dist.broadcast_object_list(given, src=0, group=_host_group())
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
        with _together():
            dist.broadcast(flat, source, group=_host_group() if flat.is_cpu else None)
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
    if _has_group():
        with _together():
            dist.barrier(group=_host_group())


def _has_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _host_group() -> Any:
    return _host_groups.get(dist.group.WORLD)


def _make_host_group() -> None:
    """An nccl group cannot carry numbers on the CPU, and to read one from the device would wait for it."""
    if dist.group.WORLD not in _host_groups:
        carries_numbers = "cpu:" in dist.get_backend_config()
        _host_groups[dist.group.WORLD] = None if carries_numbers else dist.new_group(backend="gloo")


@contextmanager
def _together() -> Iterator[None]:
    """In here all ranks meet; one that finds another gone says so in one line."""
    global _broken, _peers_lost
    try:
        yield
    except RuntimeError as error:
        _broken = True
        first_line = re.sub(r"^\[\S*\] ", "", str(error).strip().partition("\n")[0]).partition(". ")[0]  # no C++ place
        if not _LOST.search(first_line):
            raise
        _peers_lost = True
        raise PeerLost(
            f"rank {rank()} ends, as another rank is gone; that one's error tells why ({first_line})"
        ) from error


def _finalize_at_exit() -> None:
    failed = _broken or hasattr(sys, "last_value")  # Python sets that when an exception ends the process
    # after a failure the others may be waiting; those that are gone are not, and a gloo rank that stayed in its group
    # then aborted in 2 exits of 12
    if _peers_lost or not failed:
        finalize()
