"""Ranks: which of a run's processes this one is, and the group in which they find each other."""

import atexit
import gc
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import ignite.distributed as idist
import torch
import torch.distributed as dist

from .rendezvous import meet

__all__ = [
    "PeerLost",
    "finalize",
    "host_group",
    "initialize",
    "is_main",
    "rank",
    "together",
    "world_size",
]

_LOST = re.compile("connect|closed|reset by peer|broken pipe|socket|aborted", re.IGNORECASE)

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


def _has_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def host_group() -> Any:
    """The group that carries numbers on the CPU; None where that of all ranks does."""
    return _host_groups.get(dist.group.WORLD)


def _make_host_group() -> None:
    """An nccl group cannot carry numbers on the CPU, and to read one from the device would wait for it."""
    if dist.group.WORLD not in _host_groups:
        carries_numbers = "cpu:" in dist.get_backend_config()
        _host_groups[dist.group.WORLD] = None if carries_numbers else dist.new_group(backend="gloo")


@contextmanager
def together() -> Iterator[None]:
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
