"""What it costs: each job beside the hand-written loop, in interleaved rounds, as ratios taken in the same run.

    python scripts/bench.py --rounds 5 --write docs/benchmarks.md

One thread, process CPU time. Absolute times are for orientation only; the ratios are the claim.
"""

import io
import os
import platform
import statistics
import tempfile
import time
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import torch
import tyro
from torch import nn, optim
from torch.utils.data import DataLoader

from ignite_trainer import (
    Accuracy,
    Callback,
    Checkpoint,
    DataLoaders,
    Learner,
    TensorBoard,
    TensorLoader,
    __version__,
    fashion_mnist,
    random_split,
)
from ignite_trainer.models import SimpleNN
from ignite_trainer.vision import import_torchvision


class Nothing(Callback):
    """A callback that does nothing at every point of a batch."""

    before_batch = after_predict = after_loss = after_backward = after_step = after_batch = lambda self, learn: None


def hand_loop(train_dl, valid_dl, n_epochs=1):
    """The loop written by hand, with validation."""
    torch.manual_seed(0)
    model, loss_func = SimpleNN(), nn.CrossEntropyLoss()
    opt = optim.Adam(model.parameters(), 1e-3)
    for _ in range(n_epochs):
        model.train()
        for xb, yb in train_dl:
            loss = loss_func(model(xb), yb)
            loss.backward()
            opt.step()
            opt.zero_grad()
        if valid_dl is not None:
            hand_evaluation(model, loss_func, valid_dl)


def hand_evaluation(model, loss_func, valid_dl):
    """Loss and accuracy over a loader, by hand."""
    model.eval()
    loss = right = n = 0
    with torch.no_grad():
        for xb, yb in valid_dl:
            preds = model(xb)
            loss += loss_func(preds, yb).item() * len(yb)
            right += (preds.argmax(dim=1) == yb).float().mean().item() * len(yb)
            n += len(yb)
    return loss / n, right / n


def learner(dls, cbs=(), opt_func=optim.Adam, folder=None):
    torch.manual_seed(0)
    metrics = {"accuracy": Accuracy()}
    loss_func = nn.CrossEntropyLoss()
    return Learner(SimpleNN(), dls, loss_func, 1e-3, cbs, opt_func, metrics=metrics, device="cpu", folder=folder)


def seconds(job):
    """Process CPU time of a job; what it prints is swallowed."""
    with redirect_stdout(io.StringIO()):
        start = time.process_time()
        job()
        return time.process_time() - start


def compare(rounds, jobs):
    """Each job's times, taken in turn: A B A B …."""
    times = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            times[name].append(seconds(job))
    return times


def ratios(times, base):
    """For each job the median time and the median of its ratios to the base, pair by pair."""
    return {
        name: (statistics.median(each), statistics.median(a / b for a, b in zip(each, times[base], strict=True)))
        for name, each in times.items()
    }


def job_a(rounds, root):
    """The documents' job, an epoch with validation."""
    train, _ = fashion_mnist(root, import_torchvision().transforms.ToTensor())
    parts = random_split(train, [50_000, 10_000], seed=0)
    stock = DataLoader(parts[0], 32, shuffle=True), DataLoader(parts[1], 32)
    ours = DataLoaders.from_datasets(*parts, 32)
    fused = partial(optim.Adam, fused=True)
    jobs = {
        "hand loop, stock DataLoader": lambda: hand_loop(*stock),
        "Learner, stock DataLoader": lambda: learner(stock).fit(1),
        "Learner, tensor loader": lambda: learner(ours).fit(1),
        "Learner, tensor loader, fused Adam": lambda: learner(ours, opt_func=fused).fit(1),
    }
    with tempfile.TemporaryDirectory() as folder:
        longer = {
            "Learner, stock DataLoader, three epochs": lambda: learner(stock).fit(3),
            "the same with TensorBoard and its report": lambda: learner(stock, [TensorBoard(folder)]).fit(3),
        }
        few = [next(iter(stock[0]))] * 2
        learner((few, few), [TensorBoard(f"{folder}/first")]).fit(1)  # what is imported once is not the epoch's cost
        dashboard = ratios(compare(max(1, rounds // 2), longer), "Learner, stock DataLoader, three epochs")
    return ratios(compare(rounds, jobs), "hand loop, stock DataLoader"), dashboard


def job_b(rounds, n_batches=1000):
    """Ready batches of the same model: µs an iteration over the hand loop, and the ratio in evaluation."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(n_batches, 32, 784, generator=generator), torch.randint(10, (n_batches, 32), generator=generator)
    data = list(zip(x, y, strict=True))
    train = compare(
        rounds,
        {
            "hand loop": lambda: hand_loop(data, None),
            "Learner": lambda: learner((data, None)).fit(1),
            "Learner, five callbacks at every point": lambda: learner((data, None), [Nothing() for _ in range(5)]).fit(
                1
            ),
        },
    )
    model, evaluating = SimpleNN(), learner((data, data))
    evaluation = compare(
        rounds,
        {"hand loop": lambda: hand_evaluation(model, nn.CrossEntropyLoss(), data), "Learner": evaluating.evaluate},
    )
    over = {
        name: statistics.median(1e6 * (a - b) / n_batches for a, b in zip(each, train["hand loop"], strict=True))
        for name, each in train.items()
    }
    return over, ratios(evaluation, "hand loop")


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


def table(head, rows):
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def timed(results):
    """Rows of names, seconds and ratios."""
    return [(name, f"{each:.2f}", f"{ratio:.3f}") for name, (each, ratio) in results.items()]


def main(rounds: int = 5, root: str = "data", write: Path | None = None) -> None:
    """Measure the jobs and print their table.

    Args:
        rounds: how often each job is run, in turn.
        root: folder of the images.
        write: a Markdown file for the table.
    """
    torch.set_num_threads(1)
    a, dashboard = job_a(rounds, root)
    over, evaluation = job_b(rounds)
    stall = checkpoint_stall(max(rounds, 5))
    versions = f"ignite_trainer {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    text = f"""# Benchmarks

Made by `python scripts/bench.py --rounds {rounds} --write docs/benchmarks.md`: interleaved rounds, one thread, process
CPU time, medians; ratios are taken pair by pair in the same run.

{versions}, {platform.machine()}, {os.cpu_count()} cores.

## Job A: the documents' job, one epoch with validation

50,000 / 10,000 images of Fashion-MNIST, batches of 32, 784-128-10, Adam.

{table(["", "CPU seconds", "ratio to the hand loop"], timed(a))}

{table(["the default dashboard", "CPU seconds", "ratio"], timed(dashboard))}

## Job B: 1,000 ready batches of the same model

{table(["training", "µs an iteration over the hand loop"], [(n, f"{us:.1f}") for n, us in over.items()])}

{table(["evaluation, loss and accuracy", "ratio"], [(n, f"{r:.3f}") for n, (_, r) in evaluation.items()])}

## How long a save holds up the fit

A model of 1.6 million weights with Adam's state, wall time.

{table(["", "ms"], [(n, f"{ms:.1f}") for n, ms in stall.items()])}
"""
    print(text)
    if write is not None:
        write.write_text(text)


if __name__ == "__main__":
    tyro.cli(main)
