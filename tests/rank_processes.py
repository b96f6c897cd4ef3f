"""How tests start ranks: real torchrun, on the jobs of ``rank_jobs``."""

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def command(*arguments, n_ranks=2, options=(), **environment):
    """How a module is run on ranks, which have one thread each: arguments of subprocess."""
    environment = {**environment, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {
        "args": [
            *(sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={n_ranks}", *options, *map(str, arguments)),
        ],
        "cwd": ROOT,
        "env": {**os.environ, "PYTHONPATH": str(ROOT), **{name: str(value) for name, value in environment.items()}},
    }


def torchrun(*arguments, **options):
    """Run a module on ranks; its output, and the exit code of torchrun."""
    return subprocess.run(**command(*arguments, **options), capture_output=True, text=True, timeout=120)


def run_jobs(names, folder, n_ranks, **options):
    """What jobs of ``rank_jobs`` return, by rank and name; they write into the folder too."""
    run = torchrun("-m", "tests.rank_jobs", *names, folder, n_ranks=n_ranks, RANK_RUN=folder, **options)
    assert run.returncode == 0, run.stderr[-5000:]
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(n_ranks)]
