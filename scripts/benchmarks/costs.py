"""What is paid once, or now and then: the start, and a checkpoint's save."""

import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn, optim

from ignite_trainer import Checkpoint, Learner, TensorLoader

from .timing import in_new_process


def start_up(rounds):
    """Seconds, by the clock, in new processes: torch and ignite, this package beyond them, a first batch after that."""
    runs = [in_new_process("benchmarks.first_batch", "times") for _ in range(rounds)]
    return [statistics.median(times) for times in zip(*runs, strict=True)]


def checkpoint_stall(rounds):
    """How long a save holds up the fit, against torch.save and fsync of the same state: wall time, ms."""
    x, y = torch.rand(64, 784), torch.randint(10, (64,))
    model_size = 2000

    def fit(folder, background):
        model = nn.Sequential(nn.Linear(784, model_size), nn.ReLU(), nn.Linear(model_size, 10))
        checkpoint = Checkpoint(folder, every_epochs=1, background=background)
        stalls, write = [], checkpoint._write

        def timed(*args, **kwargs):
            start = time.perf_counter()
            write(*args, **kwargs)
            stalls.append(1e3 * (time.perf_counter() - start))

        checkpoint._write = timed
        loader = TensorLoader(x, y, batch_size=8)
        Learner(model, (loader, None), nn.CrossEntropyLoss(), 1e-3, [checkpoint], optim.Adam, device="cpu").fit(rounds)
        return statistics.median(stalls), model

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, model = fit(folder / "plain", False)
        background, _ = fit(folder / "background", True)
        opt = optim.Adam(model.parameters())
        model(x).sum().backward()
        opt.step()
        bare = []
        for _ in range(rounds):
            start = time.perf_counter()
            with (folder / "bare.pt").open("wb") as file:
                torch.save({"model": model.state_dict(), "optimizer": opt.state_dict()}, file)
                file.flush()
                os.fsync(file.fileno())
            bare.append(1e3 * (time.perf_counter() - start))
    return {"torch.save + fsync": statistics.median(bare), "Checkpoint": plain, "in the background": background}
