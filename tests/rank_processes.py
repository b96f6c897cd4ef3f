"""How tests start ranks, by torchrun or by themselves, on the jobs of ``rank_jobs``; and compare what they end with."""

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from tests.processes import finish, start
from tests.resume_jobs import equal

ROOT = Path(__file__).parents[1]


def command(*arguments, n_ranks=2, options=(), **environment):
    """How a module is run on ranks, which have one thread each: arguments of subprocess."""
    environment = {"CUDA_VISIBLE_DEVICES": "", **environment, "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {
        "args": [
            *(sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={n_ranks}", *options, *map(str, arguments)),
        ],
        "cwd": ROOT,
        "env": {**os.environ, "PYTHONPATH": path, **{name: str(value) for name, value in environment.items()}},
    }


def torchrun(*arguments, **options):
    """Run a module on ranks; its output, and the exit code of torchrun."""
    return subprocess.run(**command(*arguments, **options), capture_output=True, text=True, timeout=120)


def run_ranks(module, *arguments, folder, n_ranks=2, **environment):
    """Run a module on ranks without torchrun; their exit codes, and what they print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = folder / f"output-{port}"
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": n_ranks, "RANK_RUN": folder, **environment}
    ranks = [
        start(module, *arguments, stdout=output, stderr=output, RANK=rank, LOCAL_RANK=rank, **where)
        for rank in range(n_ranks)
    ]
    return [finish(rank, timeout=300) for rank in ranks], output.read_text()


def run_jobs(names, folder, n_ranks, **environment):
    """What jobs of ``rank_jobs`` return, by rank and name, without torchrun; they write into the folder too."""
    codes, output = run_ranks("tests.rank_jobs", *names, folder, folder=folder, n_ranks=n_ranks, **environment)
    assert codes == [0] * n_ranks, output[-5000:]
    return [torch.load(folder / f"rank-{rank}.pt", map_location="cpu", weights_only=False) for rank in range(n_ranks)]


def distance(ends, others):
    """How far apart weights and losses are; all else is equal; over all keys."""
    assert ends.keys() <= others.keys()
    apart = 0.0
    for key, end in ends.items():
        other = others[key]
        assert end["step"] == other["step"], key
        for name, weight in end["weights"].items():
            apart = max(apart, (weight - other["weights"][name]).abs().max().item())
        for row, same in zip(end["history"], other["history"], strict=True):
            assert row.keys() == same.keys(), key
            assert equal(row.get("valid_accuracy"), same.get("valid_accuracy")), key
            gaps = [
                abs(row[name] - same[name]) for name in row if not math.isnan(row[name]) or not math.isnan(same[name])
            ]
            assert not any(map(math.isnan, gaps)), key
            apart = max(apart, *gaps)
    return apart
