"""``ignite-trainer verify resume``: a run that is killed and gone on with ends with the bits of one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from .jobs import builtin_resume_job, find_function, takes_workers
from .mistakes import UserMistake
from .run_job import KINDS

__all__ = ["first_difference", "resume"]


def resume(job: str | None = None, /, *, kills: int = 6, workers: str | None = None, seed: int = 0) -> int:
    """Check that a job which is killed and resumed ends like one that is not.

    Example: ignite-trainer verify resume my_job:make

    The job first runs whole. It then runs again, is killed by SIGKILL at random
      moments (while it trains, validates or writes a checkpoint, in turn), and
      is resumed each time.

    Weights, optimizer, history and TensorBoard's scalars have to be equal,
      bit by bit.

    Args:
        job: module:function; called with a folder (and workers=, if it has that parameter), it returns a new (learner,
            n_epochs), whose learner has a Checkpoint and writes to that folder. None: a built-in job.
        kills: how often the run is killed, for each number of workers; fewer if it ends before a moment comes.
        workers: numbers of loader processes with commas between them; None: 0,2 where the job has that parameter.
        seed: of the random generators, before the job is made, and of the moments at which it is killed.

    Returns:
        0: all equal; 1: there are differences.
    """
    if kills < 1:
        raise UserMistake(f"--kills is how often a run is killed, at least 1; got {kills}")
    has_workers = takes_workers(builtin_resume_job if job is None else find_function(job))
    numbers = _numbers(workers) if workers is not None else [0, 2] if has_workers else [None]
    print(f"{'workers':9}{'kills':7}end; killed after step", flush=True)
    all_equal = True
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            places, difference = _one_row(_Runs(job, number, seed, Path(folder)), kills, random.Random(seed))
        all_equal &= difference is None
        name = "-" if number is None else number
        print(f"{name!s:9}{len(places):<7}{difference or 'equal'}; {', '.join(places)}", flush=True)
    return 0 if all_equal else 1


def first_difference(a: Any, b: Any, at: str = "") -> str | None:
    """Where two nests first differ and by how much, in words; None if they hold the same bits (NaN equals NaN).

    >>> first_difference({"x": [1, 2.0]}, {"x": [1, 2.5]})
    'x 1: 2.0 and 2.5'
    """
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{at}: {a.dtype} of shape {tuple(a.shape)} and {b.dtype} of shape {tuple(b.shape)}"
        same = (a == b) | ((a != a) & (b != b))
        return None if same.all() else f"{at}: {(a.double() - b.double()).abs().max().item():.3g} apart"
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            if key not in a or key not in b:
                return f"{at} {key}: only in the run {'that was killed' if key in b else 'without kills'}".strip()
            difference = first_difference(a[key], b[key], f"{at} {key}".strip())
            if difference:
                return difference
        return None
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return first_difference(dict(enumerate(a)), dict(enumerate(b)), at)
    return None if a == b or (a != a and b != b) else f"{at}: {a!r} and {b!r}"


class _Runs:
    """Runs of one job in processes of their own."""

    def __init__(self, job: str | None, workers: int | None, seed: int, folder: Path):
        self.job, self.workers, self.seed, self.folder = job, workers, seed, folder

    def run(self, name: str, kill: dict[str, Any]) -> dict[str, Any] | str:
        """What the run has left at its end, or where it was killed."""
        out, note, errors = (self.folder / part for part in (f"{name}.pt", "note", "stderr"))
        plan = {"job": self.job, "workers": self.workers, "kill": kill, "out": str(out), "note": str(note)}
        plan |= {"folder": str(self.folder / name), "seed": self.seed}
        command = [sys.executable, "-m", "ignite_trainer.cli.run_job", json.dumps(plan)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        with errors.open("w") as stderr:  # a file: loader processes that outlive a kill would hold a pipe open
            process = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=stderr, env=environment, check=False)
        if process.returncode == 0:
            return torch.load(out, weights_only=False)  # type: ignore[no-any-return]  # it is our own, of just now
        if process.returncode == -signal.SIGKILL and kill and note.exists():
            return note.read_text()
        lines = [line for line in errors.read_text().splitlines() if line.strip()] or [f"code {process.returncode}"]
        raise UserMistake(lines[-1].removeprefix("mistake: "))


def _one_row(runs: _Runs, kills: int, rng: random.Random) -> tuple[list[str], str | None]:
    whole = runs.run("whole", {})
    assert isinstance(whole, dict)
    counts = whole["counts"]
    kinds = [kind for kind in KINDS if counts[kind]]
    places, cut = [], None
    for i in range(kills):
        kind, n = kinds[i % len(kinds)], counts["iterations"]
        longest = 0.002 if kind == "saving" else counts["seconds"] / n / 2  # a save takes about as long, and a batch
        kill = {
            "kind": kind,
            "iteration": rng.randint(1 + n * i // kills, -(-n * (i + 1) // kills)),
            "skip": rng.randrange(4) if kind == "saving" else 0,
            "seconds": longest * rng.random(),
        }
        cut = runs.run("cut", kill)
        if isinstance(cut, dict):  # it ended before that moment came
            break
        places.append(cut)
    if not isinstance(cut, dict):
        cut = runs.run("cut", {})
    assert isinstance(cut, dict)
    return places, first_difference(whole["end"], cut["end"])


def _numbers(workers: str) -> list[int]:
    try:
        numbers = [int(number) for number in workers.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0:
        raise UserMistake(f"--workers is numbers from 0 with commas between them, such as 0,2; got {workers!r}")
    return numbers
