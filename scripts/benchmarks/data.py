"""What the loaders cost a sample, and how that grows with the number of samples."""

import time

import torch
from torch.utils.data import DataLoader, Subset

from ignite_trainer import SampleLoader, TensorLoader

from . import by_hand
from .loops import images
from .timing import compare, in_new_process, megabytes

SIZES = (10**4, 10**5, 10**6, 10**7)


def loaders(rounds, root, n_samples=10_000):
    """Times of going through so many images once, by loader."""
    part = images(root)[0]
    pictures = Subset(part, range(n_samples))
    whole = part.dataset
    rows = torch.as_tensor(part.indices[:n_samples])
    ours = TensorLoader(whole.data[rows], whole.targets[rows], batch_size=by_hand.BATCH_SIZE, shuffle=True, images=True)
    kinds = {
        "DataLoader": DataLoader(pictures, by_hand.BATCH_SIZE, shuffle=True),
        "SampleLoader, a seed for each sample": SampleLoader(pictures, by_hand.BATCH_SIZE, shuffle=True),
        "SampleLoader, seed_samples=False": SampleLoader(
            pictures, by_hand.BATCH_SIZE, shuffle=True, seed_samples=False
        ),
        "TensorLoader": ours,
    }
    jobs = {name: lambda loader=loader: [None for _ in loader] for name, loader in kinds.items()}
    return compare(rounds, jobs), n_samples


def growth():
    """For each size: samples, µs a sample, megabytes of data, megabytes beyond them; each in a process of its own."""
    return [in_new_process("benchmarks.data", "one_size", size) for size in SIZES]


def one_size(n_samples):
    """Go through so many samples of 64 bytes, in batches of 64, shuffled: what it took."""
    data = torch.ones(n_samples, 16)  # zeros would take no memory yet
    next(iter(TensorLoader(torch.zeros(64, 16), batch_size=64, shuffle=True)))
    before = megabytes("VmRSS")
    start = time.process_time()
    for _ in TensorLoader(data, batch_size=64, shuffle=True):
        pass
    seconds = time.process_time() - start
    # VmHWM is the most that the process ever had: the data are in it, made before
    return [n_samples, 1e6 * seconds / n_samples, 64e-6 * n_samples, megabytes("VmHWM") - before]
