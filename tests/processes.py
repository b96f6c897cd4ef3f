"""Processes with the heavy imports behind them: to import torch and Ignite anew takes 2 to 5 seconds each time.

A server that has imported the package is forked; the fork then runs a module or a script as ``python`` would, but for
functions registered with ``atexit``, which are not called.
"""

import contextlib
import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["ignite_trainer", "tests.tiny"])


class Done(NamedTuple):
    """What a process has left, as of ``subprocess.run``."""

    returncode: int
    stdout: str
    stderr: str


def start(program, *arguments, stdout, stderr, cwd=ROOT, **environment):
    """Start a process; a ``multiprocessing.Process``.

    Args:
        program: a module, as for ``python -m``, or the path of a script, which ends in ``.py``.
        stdout, stderr: files, one or two, to which its outputs are added.
        environment: variables that it gets beside those that are here; it has one thread and no CUDA device.

    ``finish`` has to be called with it: one that hangs would be waited for as pytest ends.
    """
    words = [str(program), *map(str, arguments)]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    fixed = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, **fixed, **{name: str(value) for name, value in environment.items()}}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PYTHONPATH", "OMP_NUM_THREADS"):
            patch.setenv(name, fixed[name])  # the server, which the first start starts, imports torch by them
        process = _context.Process(target=_run, args=(words, str(stdout), str(stderr), str(cwd), environment))
        process.start()
    return process


def run(program, *arguments, timeout=300, **how):
    """Run a process to its end; what it has left."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        process = start(program, *arguments, stdout=outputs[0], stderr=outputs[1], **how)
        code = finish(process, timeout)
        return Done(code, *(output.read_text() for output in outputs))


def finish(process, timeout):
    """Wait for a process, or kill it when the time is over; its exit code."""
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def send(process, number):
    """Send a signal to a process, if it is still there."""
    if process.is_alive():
        with contextlib.suppress(ProcessLookupError):  # it ends just now
            os.kill(process.pid, number)


def _run(words, stdout, stderr, cwd, environment):
    multiprocessing.set_start_method("fork", force=True)  # of DataLoader's workers, as where nothing is said
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, path in ((1, stdout), (2, stderr)):
        with open(path, "a") as output:
            os.dup2(output.fileno(), number)
    program, sys.argv = words[0], words
    if program.endswith(".py"):
        sys.path.insert(0, str(Path(program).parent))
        runpy.run_path(program, run_name="__main__")
    else:
        sys.path.insert(0, cwd)
        runpy.run_module(program, run_name="__main__", alter_sys=True)
