"""Very many iterations: does memory grow, and is a tensor held by a cycle of references?"""

import gc
import time

import torch
from torch import nn, optim

from ignite_trainer import Accuracy, Learner

from .timing import megabytes


def soak(n_iterations, n_epochs=10):
    """Train and validate on ready batches, the garbage collector off.

    Returns:
        Iterations done, seconds, growth of the resident memory after the first epoch in MB, tensors in cycles, and rows
        of the history.
    """
    generator = torch.Generator().manual_seed(0)
    batch = torch.rand(4, 8, generator=generator), torch.randint(3, (4,), generator=generator)
    n = n_iterations // n_epochs // 2  # of training, and as many of validation
    loader = [batch] * n
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    metrics = {"accuracy": Accuracy()}
    resident = []

    class Look:
        def after_validate(self, learn):
            resident.append(megabytes("VmRSS"))

    learn = Learner(
        model, (loader, loader), nn.CrossEntropyLoss(), 1e-3, [Look()], optim.Adam, metrics=metrics, device="cpu"
    )
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    start = time.perf_counter()
    try:
        learn.fit(n_epochs)
        gc.garbage.clear()
        gc.collect()
        n_tensors = sum(isinstance(thing, torch.Tensor) for thing in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    seconds = time.perf_counter() - start
    return 2 * n * n_epochs, seconds, resident[-1] - resident[0], n_tensors, len(learn.history)
