"""One-line sabotages of the package: each has to make a scenario differ, or the scenarios would not have noticed.

``python -m tests.sabotages [COUNT]`` tries them all, each on a copy of the package, and says what noticed it.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import ignite_trainer

COUNT = 300  # scenarios that have to notice; they end at the first that does


@dataclass(frozen=True)
class Sabotage:
    """One text of one file of the package, and what stands there instead."""

    file: str
    old: str
    new: str
    breaks: str


SABOTAGES: tuple[Sabotage, ...] = ()


def first_scenario_that_differs(sabotage, folder, count=COUNT):
    """Play the scenarios in a process of its own on a copy of the package; None if all were equal.

    Args:
        sabotage: applied to the copy; None leaves it as it is.
        folder: an empty folder, for the copies of the package and of these tests.

    Raises:
        ValueError: the text to replace is not in the file exactly once.
        RuntimeError: the process died of something else than a difference, so that nothing was shown.
    """
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(ignite_trainer.__file__).parent, folder / "ignite_trainer", ignore=ignored)
    shutil.copytree(Path(__file__).parent, folder / "tests", ignore=ignored)
    if sabotage is not None:
        _apply(sabotage, folder / "ignite_trainer" / sabotage.file)
    command = [sys.executable, "-m", "tests.scenario_run", "0", str(count)]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    if done.returncode == 0:
        return None
    found = re.search(r"^scenario (\d+): ", done.stderr, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"no scenario was compared: {done.stderr[-2000:]}")
    return int(found[1])


def _apply(sabotage, path):
    text = path.read_text()
    if text.count(sabotage.old) != 1:
        raise ValueError(
            f"{sabotage.old!r} has to be in {sabotage.file} once, is there {text.count(sabotage.old)} times"
        )
    path.write_text(text.replace(sabotage.old, sabotage.new))


def main(count):
    """Try them all; the exit status is the number that went unnoticed."""
    unnoticed = 0
    for sabotage in SABOTAGES:
        with tempfile.TemporaryDirectory() as folder:
            number = first_scenario_that_differs(sabotage, Path(folder), count)
        unnoticed += number is None
        print(f"{'UNNOTICED' if number is None else f'scenario {number}':>14}  {sabotage.breaks}", flush=True)
    return unnoticed


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT))
