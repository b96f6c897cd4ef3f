"""Ranks: which of a run's processes this one is, and the few numbers they tell each other."""

import atexit
import gc
import os
import sys

import ignite.distributed as idist
import torch
import torch.distributed as dist


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

    >>> initialize()
    False
    """
    made = not _has_group() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if made:
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        if torch.device(device or kind).type == "cuda":
            own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(own)
            dist.init_process_group("nccl", device_id=own)
        else:
            dist.init_process_group("gloo")
        atexit.register(_finalize_at_exit)
    if _has_group():
        idist.get_world_size()  # Ignite's collective, here where every rank is
    return made


def finalize() -> None:
    """Leaves the group, if there is one; never after an exception, when the other ranks may be waiting in a collective.

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
        tensor: of one shape on all ranks, on the device the group computes on (nccl: cuda).

    >>> sum_float64(torch.tensor([1.5, 2.5], dtype=torch.float64))
    tensor([1.5000, 2.5000], dtype=torch.float64)
    """
    if world_size() == 1:
        return tensor
    wide = torch.float64 if tensor.is_floating_point() else torch.int64
    total = tensor.detach().to(wide, copy=True)
    dist.all_reduce(total)
    return total


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank: one reduction, after which all ranks decide alike. Waits for the device.

    >>> any_rank(True)
    True
    """
    if world_size() == 1:
        return flag
    votes = torch.tensor(int(flag), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return bool(votes.item())


def barrier() -> None:
    """Waits until every rank is here.

    >>> barrier()
    """
    if _has_group():
        dist.barrier()


def _has_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _finalize_at_exit() -> None:
    if not hasattr(sys, "last_value"):  # Python sets it when an exception ends the process
        finalize()
