"""``ignite-trainer train`` and ``resume``: a job from its options to a folder with the trained model."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import tyro

from ..callbacks import Callback
from ..collectives import barrier, of_main
from ..distributed import is_main
from ..handlers import EMA, Checkpoint, EarlyStopping, NaNGuard, Progress, RunFiles, Schedule, TensorBoard
from ..handlers.signals import EXIT_RESUMABLE
from ..handlers.state_files import newest_checkpoint
from ..learner import Learner
from ..schedules import one_cycle, warmup_cosine
from ..weights import load_weights
from .build import Job, build_job, check_last_batch, loader_of
from .config_file import job_section
from .job_data import JobData
from .mistakes import UserMistake, mistakes
from .options import Given, parse_options
from .run_folder import Run, check_data, is_run, read_run, weights_file

__all__ = ["TRAIN_HELP", "resume", "train"]

TRAIN_HELP = """Train a classifier and keep all of the run in one folder.

Example: ignite-trainer train --data folder:photos --size 64 --model small-cnn

The folder gets config.yaml, history.csv, checkpoints, TensorBoard's events,
  report.png, and model.safetensors, the weights that were validated best.

Ctrl-C and SIGTERM finish the batch, save, and end with exit code 75;
  `ignite-trainer resume` goes on from there.

Where the data has no validation set a part is kept for it: 10,000 images of
  fashion-mnist and mnist, a fifth of those of a CSV file or a folder.
"""

_WARMUP = 0.05  # part of the run in which the rate of the schedule cosine rises


def train(words: Sequence[str]) -> int:
    """Train a job in a new folder.

    Args:
        words: of the command line, after ``train``.

    Returns:
        0: done; 1: the loss was no longer finite.
    """
    given = parse_options(words, prog="ignite-trainer train", description=TRAIN_HELP)
    folder = given.options.folder
    if folder is not None and is_run(folder):
        raise UserMistake(
            f"--folder is a new one; in {folder} there is a run already: go on with `ignite-trainer resume {folder}`, "
            "or give another"
        )
    return _run(given)


def resume(run: Annotated[Path, tyro.conf.arg(metavar="RUN")], /) -> int:
    """Continue a run that was stopped, to the same bits as if it had not been.

    Example: ignite-trainer resume runs/20260131-235959

    Args:
        run: folder of the run.

    Returns:
        0: done, or it was finished before; 1: the loss was no longer finite.
    """
    known = read_run(run)
    with mistakes():
        found = newest_checkpoint(run / "checkpoints")
    done = None if found is None else found[0]["progress"]
    if done is not None and done["done"] and known.options.epochs <= done["n_epochs"]:
        say(f"{run} is finished, after epoch {done['epoch']} and step {done['step']}; nothing is left to train")
        return 0
    return _run(known.given, known)


def say(*lines: str) -> None:
    """Print, on the main process alone."""
    if is_main():
        print(*lines, sep="\n", flush=True)


class MaxSteps(Callback):
    """Ends the run after so many optimizer steps: the epoch is cut there, and validated.

    Args:
        n_steps: at least 1.
    """

    order = 80

    def __init__(self, n_steps: int):
        self.n_steps = n_steps

    def after_batch(self, learn: Learner) -> None:
        """Leave the epoch."""
        if learn.engine.training and learn.step >= self.n_steps:
            learn.trainer.terminate_epoch()

    def after_validate(self, learn: Learner) -> None:
        """Leave the fit."""
        if learn.step >= self.n_steps:
            learn.stop(f"stopped after {learn.step} steps, as --max-steps asks for")


def _run(given: Given, known: Run | None = None) -> int:
    """Train; ``known``: the run to go on with."""
    options = given.options
    job = build_job(options, folder=options.folder)
    if known is not None:
        check_data(known, job.data)
    check_last_batch(job)
    learn = job.learn
    learn.cbs += _callbacks(given, job.data)
    if options.timeline:
        say(learn.timeline())
    try:
        with mistakes():
            if options.folder is None:
                _ = learn.folder  # made at once
            learn.fit(options.epochs, resume=known is not None)
    except SystemExit as stopped:
        if stopped.code == EXIT_RESUMABLE and is_main():
            print(f"go on with: ignite-trainer resume {quote(str(learn.folder))}", file=sys.stderr, flush=True)
        raise
    for line in _end(job):
        say(line)
    return 1 if learn.outcome == "broken" else 0


def _callbacks(given: Given, data: JobData) -> list[Any]:
    options = given.options
    found = {
        "classes": data.classes,
        "input_shape": list(data.input_shape),
        "input_dtype": str(data.input_dtype).removeprefix("torch."),
        "samples": [len(data.train), len(data.valid)],
    }
    cbs: list[Any] = [
        Progress(),
        NaNGuard(),
        RunFiles(job=job_section(options, given.origins, found)),
        Checkpoint(every_steps=options.checkpoint_steps),
        TensorBoard(hparams=_chosen(given)),
    ]
    if options.schedule == "one-cycle":
        cbs.append(Schedule(one_cycle(cycle_momentum=options.optimizer == "sgd")))
    elif options.schedule == "cosine":
        cbs.append(Schedule(warmup_cosine(warmup_fraction=_WARMUP)))
    if options.ema is not None:
        cbs.append(EMA(options.ema))
    if options.patience is not None:
        cbs.append(EarlyStopping(patience=options.patience))
    if options.max_steps is not None:
        cbs.append(MaxSteps(options.max_steps))
    return cbs


def _chosen(given: Given) -> dict[str, Any]:
    """What somebody chose, for the page of hyperparameters; what the Learner tells of itself there is left out."""
    own = ("model", "optimizer", "lr", "folder", "timeline")
    chosen = {name: getattr(given.options, name) for name, origin in given.origins.items() if origin != "default"}
    values = {"data": given.options.data, **chosen}
    return {
        name: value if isinstance(value, (bool, int, float)) else str(value)
        for name, value in values.items()
        if name not in own
    }


def _end(job: Job) -> Iterator[str]:
    """What is said when a run is over: a table of the epochs that count, the test, and where all of it is."""
    learn = job.learn
    rows = [row for row in learn.history if not math.isnan(row["valid_loss"])]
    best = min(rows, key=lambda row: row["valid_loss"], default=None)
    yield from ["", f"{'':12}{'epoch':>7}{'step':>9}{'training loss':>15}{'loss':>9}{'accuracy':>10}"] if rows else []
    for name, row in (("best epoch", best), ("last epoch", rows[-1] if rows else None)):
        if row is not None:
            yield (
                f"{name:12}{row['epoch'] + 1:>7}{row['step']:>9}{row['train_loss']:>15.4f}{row['valid_loss']:>9.4f}"
                f"{row['valid_accuracy']:>10.2%}"
            )
    barrier()  # until rank 0 has written its files
    written = of_main(weights_file(learn.folder).exists())  # the folder of the others may be another
    if job.data.test is not None and best is not None and written:
        if is_main():
            load_weights(learn.model, weights_file(learn.folder))
        with mistakes(f"the test data (the run is whole, in {learn.folder})"):
            test = learn.evaluate(loader_of(job.data.test, job.options))
        yield f"{'test, best':12}{'':31}{test['loss']:>9.4f}{test['accuracy']:>10.2%}"
    shown = learn.folder if job.options.folder else learn.folder.parent  # runs, where all that nobody named are
    yield from ["", f"the run: {learn.folder}", f"the dashboard: tensorboard --logdir {quote(str(shown))}"]
