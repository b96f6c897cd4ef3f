"""Jobs that are run whole, cut anywhere and gone on with: as nasty as training gets, and small.

``python -m tests.resume_jobs NAME FOLDER OUT`` runs one, resuming if it can, and writes its end to OUT.
"""

import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset

from ignite_trainer import (
    EMA,
    Callback,
    Checkpoint,
    DataLoaders,
    EarlyStopping,
    Learner,
    SampleLoader,
    Schedule,
    TensorLoader,
    accuracy,
    seed_everything,
    warmup_cosine,
)
from tests.tiny import blobs, dropout_net

N_EPOCHS = 3


class Noisy(Dataset):
    """Points with noise from all three generators: random augmentation."""

    def __init__(self, n, seed):
        self.x, self.y = blobs(n, seed=seed)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        noise = torch.randn(6) + random.random() + float(np.random.rand())
        return self.x[index] + 0.1 * noise, self.y[index]


def stock(workers, own_generator=False):
    generator = torch.Generator().manual_seed(5) if own_generator else None
    train = DataLoader(Noisy(44, 1), 8, shuffle=True, num_workers=workers, generator=generator)
    return train, DataLoader(Noisy(20, 2), 8, shuffle=True, num_workers=workers, generator=generator)


def tensors():
    train, valid = blobs(44, seed=1), blobs(20, seed=2)
    noise = lambda x, generator: x + torch.randn(x.shape, generator=generator)  # noqa: E731
    return TensorLoader(*train, batch_size=8, shuffle=True, transform=noise), TensorLoader(*valid, batch_size=8)


def samples(workers):
    dls = DataLoaders.from_datasets(Noisy(44, 1), Noisy(20, 2), 8, num_workers=workers)
    assert isinstance(dls.train, SampleLoader)
    return dls


def listed():
    train, valid = (list(zip(*(part.split(8) for part in blobs(n, seed=n)), strict=True)) for n in (44, 20))
    return train, valid


def generated():
    return lambda: iter(listed()[0]), listed()[1]


LOADERS = {
    "tensors": tensors,
    "samples": lambda: samples(0),
    "samples, 2 workers": lambda: samples(2),
    "stock": lambda: stock(0),
    "stock, own generator": lambda: stock(0, own_generator=True),
    "stock, 2 workers": lambda: stock(2),
    "list": listed,
    "generator function": generated,
}


def make(name, folder, **checkpoint):
    """A fresh learner of the job: dropout, batch norm, Adam, a schedule, windows of two batches, averages, stopping."""
    torch.set_num_threads(1)
    seed_everything(3)
    cbs = [
        Schedule(warmup_cosine(warmup_steps=2)) if name != "generator function" else Schedule(lambda step: 0.9**step),
        EMA(0.8),
        EarlyStopping(patience=2),
        Checkpoint(**{"every_steps": 1, "keep": 3, **checkpoint}),
    ]
    return Learner(
        dropout_net(),
        LOADERS[name](),
        nn.CrossEntropyLoss(),
        0.01,
        cbs,
        optim.Adam,
        metrics={"accuracy": accuracy},
        device="cpu",
        accumulate=2,
        clip_norm=1.0,
        folder=folder,
    )


def end_of(learn):
    """All that has to be equal at the end."""
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in learn.history]
    return {
        "weights": {key: value.clone() for key, value in learn.model.state_dict().items()},
        "optimizer": learn.opt.state_dict(),
        "history": rows,
        "step": learn.step,
        "rng": torch.get_rng_state(),
        "random": random.random(),
    }


def equal(a, b):
    """Whether two nests hold the same bits; NaN equals NaN."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b or (a != a and b != b)


class Slowly(Callback):
    """Makes a batch last, training or validating, so that a kill falls anywhere; says when the fit has begun."""

    order = 99  # the checkpoint watches the signals by then

    def before_fit(self, learn):
        (learn.folder / "started").touch()

    def after_loss(self, learn):
        time.sleep(float(os.environ["SECONDS_A_BATCH"]))


if __name__ == "__main__":
    job, run, out = sys.argv[1:]
    trained = make(job, Path(run))
    trained.cbs.append(Slowly())
    trained.fit(N_EPOCHS, resume=True)
    torch.save(end_of(trained), out)
