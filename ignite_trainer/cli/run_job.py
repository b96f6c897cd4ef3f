"""One run of a job in a process of its own, which may kill itself: ``python -m ignite_trainer.cli.run_job JSON``."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from ..handlers import Checkpoint
from ..learner import Learner
from ..resume import WALL_CLOCK
from ..rng import seed_everything
from .jobs import call, make_learner
from .mistakes import UserMistake

__all__ = ["KINDS", "end_of_run", "run_job"]

KINDS = ("training", "validating", "saving")
"""What a run can be doing when it is killed."""


class Killer:
    """A callback that ends its own process by SIGKILL, at a moment that was drawn beforehand.

    Args:
        folder: where the checkpoints are written.
        kill: ``kind``, one of ``KINDS``; from which ``iteration`` on; how many such events to let pass (``skip``); how
            many ``seconds`` after the event. Empty: never.
        note: a file that says where the process was killed.
    """

    order = -1000

    def __init__(self, folder: Path, kill: dict[str, Any], note: Path):
        self.folder, self.kill, self.note = str(folder), kill, note
        self.counts = dict.fromkeys(KINDS, 0)
        self.learn: Learner | None = None
        if kill:
            self.skip = kill["skip"]
        sys.addaudithook(self._watch_files)

    def before_fit(self, learn: Learner) -> None:
        """Note the learner, whose progress says how far the run is."""
        self.learn = learn

    def before_batch(self, learn: Learner) -> None:
        """A batch begins."""
        self._at(learn, "training" if learn.engine.training else "validating")

    def _watch_files(self, event: str, args: tuple[Any, ...]) -> None:
        """Python calls this at every file that is opened or renamed: also within the writing of a checkpoint."""
        if event in ("open", "os.rename") and self.learn is not None and str(args[0]).startswith(self.folder):
            self._at(self.learn, "saving")

    def _at(self, learn: Learner, kind: str) -> None:
        self.counts[kind] += 1
        if self.kill and self.kill["kind"] == kind and learn.trainer.state.iteration >= self.kill["iteration"]:
            if self.skip == 0:
                timer = threading.Timer(self.kill["seconds"], self._die, [learn, kind])
                timer.daemon = True
                timer.start()
            self.skip -= 1

    def _die(self, learn: Learner, kind: str) -> None:
        self.note.write_text(f"{learn.step} {kind}")
        os.kill(os.getpid(), signal.SIGKILL)


def end_of_run(learn: Learner, folder: Path) -> dict[str, Any]:
    """All that has to be equal at the end: what lies in the learner, and the scalars in the folder's event files."""
    rows = [{key: value for key, value in row.items() if key not in WALL_CLOCK} for row in learn.history]
    return {
        "history": {f"epoch {row['epoch'] + 1:g}": row for row in rows},
        "steps": learn.step,
        "weights": learn.model.state_dict(),
        "optimizer": learn.opt.state_dict() if hasattr(learn.opt, "state_dict") else {},
        "scalars": _scalars(folder),
    }


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag → its points (step, value); one that a resumed run wrote again counts once."""
    folders = sorted({path.parent for path in folder.rglob("events.out.tfevents*")})
    if not folders:
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    points: dict[str, list[tuple[int, float]]] = {}
    for each in folders:
        events = EventAccumulator(str(each), size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
        for tag in set(events.Tags()["scalars"]) - set(WALL_CLOCK):
            name = str(each.relative_to(folder) / tag)
            points[name] = sorted({(event.step, event.value) for event in events.Scalars(tag)})
    return dict(sorted(points.items()))


def run_job(
    job: str | None, folder: Path, workers: int | None, kill: dict[str, Any], out: Path, note: Path, seed: int = 0
) -> None:
    """Run a job, which is made from a seed, or go on with it; write its end and how much it did to ``out``.

    Raises:
        UserMistake: the job is not one that can be killed and gone on with.
    """
    seed_everything(seed)
    learn, n_epochs = make_learner(job, folder, workers)
    checkpoint = next((cb for cb in learn.cbs if isinstance(cb, Checkpoint)), None)
    if checkpoint is None:
        raise UserMistake(f"a run goes on from what a Checkpoint has saved; the learner of {job} has none")
    checkpoints = checkpoint.folder(learn)
    if not checkpoints.resolve().is_relative_to(folder.resolve()):
        raise UserMistake(f"a job writes into the folder that it is given; {job} would write to {checkpoints}")
    killer = Killer(checkpoints, kill, note)
    learn.cbs.append(killer)
    began = time.monotonic()
    call(learn.fit, n_epochs, resume=True, what=f"the fit of {job}")
    counts = {**killer.counts, "iterations": learn.trainer.state.iteration, "seconds": time.monotonic() - began}
    torch.save({"end": end_of_run(learn, folder), "counts": counts}, out)


if __name__ == "__main__":
    plan = json.loads(sys.argv[1])
    try:
        run_job(**plan | {name: Path(plan[name]) for name in ("folder", "out", "note")})
    except UserMistake as mistake:
        sys.exit(f"mistake: {mistake}")
