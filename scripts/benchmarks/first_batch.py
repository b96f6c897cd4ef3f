"""From nothing to the end of a first batch, in a process that has imported nothing yet."""

# ruff: noqa: E402, F401, I001  the imports are what is measured
import time

BEGIN = time.perf_counter()
import torch
import ignite.engine
import ignite.metrics

LIBRARIES = time.perf_counter()
from ignite_trainer import Callback, CancelFitException, DataLoaders, Learner

PACKAGE = time.perf_counter()


class FirstBatch(Callback):
    """Ends the fit after one."""

    def after_batch(self, learn):
        raise CancelFitException


def times():
    """Seconds: torch and ignite imported, this package beyond them, a model trained on a batch."""
    start = time.perf_counter()
    dls = DataLoaders.from_tensors((torch.rand(1000, 784), torch.randint(10, (1000,))))
    model, loss_func = torch.nn.Linear(784, 10), torch.nn.CrossEntropyLoss()
    Learner(model, dls, loss_func, 0.1, [FirstBatch()], device="cpu").fit(1)
    return LIBRARIES - BEGIN, PACKAGE - LIBRARIES, time.perf_counter() - start
