"""How the ranks of a run find each other, also when torchrun has started them again after a crash."""

from __future__ import annotations

import time
import uuid
from typing import Any

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

__all__ = ["fresh_store", "meet"]

WAIT_SECONDS = 1800.0
_PREFIX = "ignite_trainer"


def meet() -> dict[str, Any]:
    """Where the ranks of torchrun's environment meet: ``store``, ``rank`` and ``world_size`` of a process group."""
    store, rank, world = next(iter(rendezvous("env://")))
    return {"store": fresh_store(store, rank, world), "rank": rank, "world_size": world}


def fresh_store(store: Any, rank: int, world: int) -> Any:
    """A part of the store that no earlier ranks of the run have written to.

    torchrun's store outlives the ranks that it starts again, and torch 2.13 reads there the addresses of those that are
    dead, if it comes before they are written anew: an error after some seconds, or a wait of half an hour. So rank 0
    gives the part a new name, and tells it to each rank that asks with a name of its own; who is dead does not confirm.

    Args:
        store: a ``torch.distributed.Store`` that all ranks reach.
        rank, world: this process and their number.

    Raises:
        TimeoutError: ranks do not come within half an hour.

    >>> store = dist.HashStore()
    >>> store.set("ignite_trainer/asks/1", "a rank that is dead")
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor() as pool:
    ...     first, second = pool.map(lambda rank: fresh_store(store, rank, 2), range(2))
    >>> first.set("address", "here")
    >>> second.get("address")
    b'here'
    """
    if rank == 0:
        name = uuid.uuid4().hex
        _tell(store, name, world)
    else:
        asking = uuid.uuid4().hex
        store.set(f"{_PREFIX}/asks/{rank}", asking)
        name = store.get(f"{_PREFIX}/told/{asking}").decode()  # waits
        store.set(f"{_PREFIX}/knows/{name}/{rank}", "")
    return dist.PrefixStore(  # type: ignore[attr-defined]
        f"{_PREFIX}/{name}", store
    )


def _tell(store: Any, name: str, world: int) -> None:
    end, missing = time.monotonic() + WAIT_SECONDS, set(range(1, world))
    while missing:
        for rank in sorted(missing):
            if store.check([f"{_PREFIX}/knows/{name}/{rank}"]):
                missing.discard(rank)
            elif store.check([f"{_PREFIX}/asks/{rank}"]):
                asking = store.get(f"{_PREFIX}/asks/{rank}").decode()
                store.set(f"{_PREFIX}/told/{asking}", name)
        if missing and time.monotonic() > end:
            raise TimeoutError(f"{world} ranks are to meet; of {sorted(missing)} nothing was heard for half an hour")
        time.sleep(0.005)
