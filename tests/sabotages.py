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


ENGINES, EPOCHS, LEARNER, STEPS = "engines.py", "epochs.py", "learner.py", "steps.py"
VALIDATION = "validation.py"
SABOTAGES = (
    Sabotage(ENGINES, "if scope and self.cancelled >= scope:", "if False:", "silence"),
    Sabotage(
        EPOCHS, "                    engine.cancelled = 0", "                    pass", "the batch after a cancel"
    ),
    Sabotage(ENGINES, "        self.cancelled, self.place = 0, -1\n        if", "        if", "the next epoch"),
    Sabotage(EPOCHS, "            engine.end_epoch()\n", "            pass\n", "a cancel in before_epoch"),
    Sabotage(EPOCHS, "            yield None", "            pass", "a cancel by the loader"),
    Sabotage(EPOCHS, "            if not engine.cancelled:", "            if True:", "no loader after a cancel"),
    Sabotage(EPOCHS, "engine.measure_epoch()  #", "pass  #", "a length that changes in before_epoch"),
    Sabotage(ENGINES, "self._epochs.finish()", "pass", "the loader's own end"),
    Sabotage(ENGINES, "if not scope <= request.scope <= self.widest:", "if False:", "cancels out of place"),
    Sabotage(
        ENGINES,
        "        if self.cancelled:\n            raise _BatchOver",
        "        if False:\n            raise _BatchOver",
        "inside the step",
    ),
    Sabotage(ENGINES, "        if self.cancelled:\n            return None\n", "", "the step after before_batch"),
    Sabotage(ENGINES, "for engine in self.partners:", "for engine in (self,):", "a fit cancelled in validation"),
    Sabotage(
        ENGINES,
        "with torch.set_grad_enabled(self.training), self.around(self):",
        "with torch.enable_grad(), self.around(self):",
        "no gradients in validation",
    ),
    Sabotage(
        ENGINES,
        "iterations_done or (state.max",
        "iterations_done or Engine._is_done(state) or (state.max",
        "epochs that shrink",
    ),
    Sabotage(
        VALIDATION,
        "TERMINATE_SINGLE_EPOCH, always(self.run_after_cut)",
        "TERMINATE_SINGLE_EPOCH, always(lambda iter_counter: None)",
        "validation after a cancelled epoch",
    ),
    Sabotage(
        VALIDATION,
        "if learn.trainer.cancelled == Scope.FIT or not learn.in_fit:",
        "if not learn.in_fit:",
        "validation after a cancelled fit",
    ),
    Sabotage(
        VALIDATION,
        "trainer.attach_last(Events.EPOCH_COMPLETED, self.announce)",
        "trainer.add_event_handler(Events.EPOCH_COMPLETED, always(self.announce))",
        "VALIDATED after the handlers",
    ),
    Sabotage(LEARNER, "self.model.train(engine.training)", "self.model.train()", "modes"),
    Sabotage(LEARNER, "        engine.state.max_epochs = None", "        pass", "a fit after one that ended early"),
    Sabotage(
        LEARNER,
        "            self.opt.zero_grad()  # some",
        "            pass  # some",
        "gradients left by the last fit",
    ),
    Sabotage("callbacks.py", "[*cbs, *(other", "[*reversed(cbs), *(other", "ties by place"),
    Sabotage(STEPS, "loop.opt.step()\n", "loop.opt.step(), loop.opt.zero_grad()\n", "after_step before zero_grad"),
    Sabotage(LEARNER, "        self.engine.state.batch = batch", "        pass", "an assigned batch"),
)


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
