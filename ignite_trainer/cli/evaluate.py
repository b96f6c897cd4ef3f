"""``ignite-trainer evaluate``: loss and accuracy of a run's model, each class by itself, and what it takes for what."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

from ..callbacks import Callback
from ..collectives import sum_float64
from ..distributed import is_main
from ..learner import Learner
from ..weights import load_weights
from .build import build_job, loader_of
from .mistakes import UserMistake, mistakes
from .options import DEVICE
from .run_folder import check_data, read_run, weights_file
from .train import say

__all__ = ["evaluate"]

_COLUMNS = 80
_N_CONFUSIONS = 10
_N_LETTERS = 20


def evaluate(
    run: Annotated[Path, tyro.conf.arg(metavar="RUN")],
    /,
    *,
    split: Annotated[
        Literal["test", "valid", "train"] | None,
        tyro.conf.arg(metavar="SPLIT", help_behavior_hint="(default: test, or valid where there is no test data)"),
    ] = None,
    device: DEVICE = None,
) -> int:
    """Print a run's loss and accuracy, results per class, and the confusion matrix.

    Example: ignite-trainer evaluate runs/20260131-235959 --split valid

    Args:
        run: folder of the run.
        split: which of the run's data: test, valid or train.
        device: cpu, cuda, cuda:1 or mps.

    Returns:
        0.
    """
    known = read_run(run)
    if not weights_file(run).is_file():
        known.model()  # says what is missing, before the data is read
    counts = ConfusionCounts(len(known.classes))
    job = build_job(replace(known.options, device=device, augment="none"), cbs=[counts])
    check_data(known, job.data)
    split = split or ("valid" if job.data.test is None else "test")
    dataset = getattr(job.data, split)
    if dataset is None:
        raise UserMistake(f"--split test needs test data; {known.options.data} has none: leave it out, or give valid")
    samples = len(job.data.train), len(job.data.valid)
    if split != "test" and known.samples != samples and is_main():
        then, now = (f"{n[0]} samples to train and {n[1]} to validate" for n in (known.samples, samples))
        text = f"{run} had {then}, {known.options.data} has {now} now: some of these it may have been trained on"
        print(text, file=sys.stderr)
    with mistakes():
        load_weights(job.learn.model, weights_file(run))
        results = job.learn.evaluate(loader_of(dataset, job.options))
    matrix = sum_float64(counts.matrix.cpu())
    say(f"{split}: {int(matrix.sum())} samples, loss {results['loss']:.4f}, accuracy {results['accuracy']:.2%}", "")
    say(*_classes(matrix, known.classes), "", *_confusion(matrix, known.classes))
    return 0


class ConfusionCounts(Callback):
    """Counts what is taken for what, on the device; with several ranks what this one has seen.

    Args:
        n_classes: of the model.

    Attributes:
        matrix: (classes, classes) int64, [target, predicted].
    """

    def __init__(self, n_classes: int):
        self.matrix = torch.zeros(n_classes, n_classes, dtype=torch.int64)

    def after_loss(self, learn: Learner) -> None:
        """Count a batch."""
        y, n = learn.batch[1].long(), len(self.matrix)  # uint8 would wrap around
        pairs = torch.bincount(y * n + learn.preds.argmax(dim=1), minlength=n * n)
        self.matrix = self.matrix.to(pairs.device) + pairs.view(n, n)


def _classes(matrix: Tensor, names: list[str]) -> Iterator[str]:
    """A line for each class: how many of those called so are so, how many of those that are so are called so."""
    width = max(5, *(len(_short(name)) for name in names))
    yield f"{'class':{width}}  precision   recall  samples"
    for i, name in enumerate(names):
        right, called, there = (int(part) for part in (matrix[i, i], matrix[:, i].sum(), matrix[i].sum()))
        yield f"{_short(name):{width}}  {_share(right, called):>9}  {_share(right, there):>7}  {there:>7}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "-"


def _confusion(matrix: Tensor, names: list[str]) -> Iterator[str]:
    """The confusion matrix; where it would be wider than a terminal, the most frequent confusions."""
    width = max(len(_short(name)) for name in names)
    cell = 1 + max(len(str(int(matrix.max()))), len(str(len(names) - 1)))
    number = len(str(len(names) - 1))
    if width + number + 1 + cell * len(names) <= _COLUMNS:
        yield "confusion: a row for each class, a column for what it was taken for"
        yield " " * (width + number + 1) + "".join(f"{i:>{cell}}" for i in range(len(names)))
        for i, name in enumerate(names):
            yield f"{i:>{number}} {_short(name):{width}}" + "".join(f"{int(count):>{cell}}" for count in matrix[i])
        return
    off = matrix.clone().fill_diagonal_(0)
    counts, places = off.flatten().topk(min(_N_CONFUSIONS, off.numel()))
    yield "the most frequent confusions"
    for count, place in zip(counts.tolist(), places.tolist(), strict=True):
        if count:
            yield f"{count:>7} of {_short(names[place // len(names)])} taken for {_short(names[place % len(names)])}"


def _short(name: str) -> str:
    return name if len(name) <= _N_LETTERS else name[: _N_LETTERS - 1] + "…"
