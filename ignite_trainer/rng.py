"""Random numbers: seeds that are a hash of where one is, and the state of every global generator as plain data."""

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arguments import is_whole

__all__ = ["get_rng_state", "hash_seed", "rng_kept", "seed_everything", "seed_sample", "set_rng_state"]

_MASK_32, _MASK_64 = (1 << 32) - 1, (1 << 64) - 1


def hash_seed(*parts: int) -> int:
    """A seed of 63 bits that depends on every bit of every part and on their order.

    Neighbouring parts give unrelated seeds, so ``hash_seed(seed, epoch)`` may be used where ``seed + epoch`` would make
    epoch 1 of seed 0 the same as epoch 0 of seed 1. The same in every version of Python and of this package.

    Args:
        parts: integers, negative ones too; of larger ones than 64 bits the lower 64 count.

    >>> hash_seed(0, 1), hash_seed(1, 0)
    (4059051691542397301, 5983670273984330465)
    """
    packed = struct.pack(f"<{len(parts)}Q", *[int(part) & _MASK_64 for part in parts])
    return int.from_bytes(blake2b(packed, digest_size=8).digest(), "little") >> 1


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators (every device), for the first line of a script.

    Args:
        seed: from 0 to 2**32 - 1, because NumPy takes no other.

    Raises:
        ValueError: ``seed`` is out of this range.

    >>> seed_everything(42)
    >>> torch.rand(2)
    tensor([0.8823, 0.9150])
    """
    if not is_whole(seed) or not 0 <= seed <= _MASK_32:
        raise ValueError(f"seed is a whole number from 0 to 2**32 - 1, as NumPy takes no other; got {seed!r}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def seed_sample(seed: int, epoch: int, index: int) -> None:
    """Seed Python's, NumPy's and torch's CPU generators for one sample, whatever was drawn before.

    The CUDA generators stay as they are: samples are made on the CPU, and ``torch.manual_seed``, which seeds them too,
    costs more than a hundred times this.

    Args:
        seed: the loader's.
        epoch: from 0.
        index: the sample's place in its dataset.

    >>> seed_sample(0, 0, 7)
    >>> draws = random.random(), np.random.rand(), torch.rand(1)
    >>> seed_sample(0, 0, 7)
    >>> draws == (random.random(), np.random.rand(), torch.rand(1))
    True
    """
    sample_seed = hash_seed(seed, epoch, index)
    random.seed(sample_seed)
    np.random.seed(sample_seed & _MASK_32)
    torch.default_generator.manual_seed(sample_seed)


def get_rng_state() -> dict[str, Any]:  # Any: each generator has a state of its own shape
    """The states of Python's, NumPy's and torch's global generators, in lists and tensors.

    Returns:
        a dict for `set_rng_state`, plain data that ``torch.load(weights_only=True)`` reads.

    Raises:
        TypeError: NumPy's global generator was replaced by one of another kind.

    >>> state = get_rng_state()
    >>> drawn = torch.rand(3), random.random()
    >>> set_rng_state(state)
    >>> torch.equal(torch.rand(3), drawn[0]), random.random() == drawn[1]
    (True, True)
    """
    (version, words, gauss), mersenne, of_torch, of_cuda, of_mps = _states()
    if mersenne["bit_generator"] != "MT19937":
        raise TypeError(
            f"NumPy's global generator is saved where it is its own, MT19937; np.random.set_bit_generator gave it "
            f"{mersenne['bit_generator']}: keep that as a generator of your own, np.random.default_rng(seed)"
        )
    keys = torch.from_numpy(mersenne["state"]["key"].astype(np.int64))
    return {
        "python": [version, list(words), gauss],
        "numpy": [keys, mersenne["state"]["pos"], mersenne["has_gauss"], mersenne["gauss"]],
        "torch": of_torch,
        "cuda": of_cuda,
        "mps": of_mps,
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put the generators back where `get_rng_state` saw them.

    A state from a machine with more CUDA devices is put back on those that are here.

    Args:
        state: what `get_rng_state` returned, saved and loaded or not.
    """
    version, words, gauss = state["python"]
    keys, *rest = state["numpy"]
    mersenne = "MT19937", keys.numpy().astype(np.uint32), *rest
    _put_back((version, tuple(words), gauss), mersenne, state["torch"], state["cuda"], state["mps"])


@contextmanager
def rng_kept(*, cuda: bool = True) -> Iterator[None]:
    """In here the global generators may be drawn from; at the end they are where they were.

    Args:
        cuda: False: those of the CUDA devices are left alone, which a forked process cannot reach.

    >>> state = get_rng_state()
    >>> with rng_kept():
    ...     drawn = torch.rand(3)
    >>> torch.equal(torch.rand(3), drawn)
    True
    """
    states = _states(cuda)
    try:
        yield
    finally:
        _put_back(*states)


def _states(cuda: bool = True) -> tuple[Any, ...]:
    """Those of Python, NumPy, torch, its CUDA devices and mps, each as its generator gives it."""
    return (
        random.getstate(),
        np.random.get_state(legacy=False),
        torch.get_rng_state(),
        torch.cuda.get_rng_state_all() if cuda and torch.cuda.is_available() else [],
        torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    )


def _put_back(python: Any, numpy: Any, of_torch: Tensor, of_cuda: list[Tensor], of_mps: Tensor | None) -> None:
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(of_torch)
    if of_cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(of_cuda[: torch.cuda.device_count()])
    if of_mps is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(of_mps)
