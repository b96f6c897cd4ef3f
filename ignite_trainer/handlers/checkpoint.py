"""Checkpoints: the whole state of a fit, saved so that a crash at any moment leaves a good one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from ..arguments import check_folder, is_number, is_whole
from ..callbacks import Callback
from ..collectives import barrier, of_main
from ..distributed import is_main
from ..files import sum_file
from ..learner_like import LearnerLike
from ..loadable import refuse_unloadable
from ..resume import snapshot
from ..same_job import refuse_persistent_workers
from .best import Best, check_monitor
from .crash import CrashReport
from .signals import EXIT_RESUMABLE, SignalWatch
from .soundness import Soundness
from .state_files import StateWriter, load_checkpoint, newest_checkpoint, newest_first

__all__ = ["Checkpoint"]


class Checkpoint(Callback):
    """Saves the whole state of the fit, from which ``learn.fit(n, resume=True)`` continues bit for bit.

    Files are ``folder/checkpoints/step-00001200.pt``, each with its sha256 beside it, and ``best.pt``. A save that is
    due within a window of ``accumulate`` batches waits for its step, one due on an epoch's last batch for validation.
    While a weight that was finite at the start is NaN or infinite, nothing is saved, and the last good files stay. On
    SIGTERM, SIGUSR1 or a first Ctrl-C the fit finishes the batch (or the validation), saves, and exits with code 75. A
    batch that raises an exception is kept in ``crash.pt``, for ``ignite-trainer replay``. Of several ranks, rank 0
    writes, and a signal to any of them ends all.

    Args:
        folder: of the run; None: ``learn.folder``. For ``resume=True`` one of the two has to be given.
        every_steps: optimizer steps between two saves; None: no saves by steps.
        every_epochs: epochs between two saves; None: no saves by epochs. The end of a fit is saved too.
        every_seconds: seconds between two saves; None: no saves by time.
        keep: how many of the newest are kept; None: all.
        monitor: a key of a history row; whenever it improves, ``best.pt`` is written too; None: no ``best.pt``.
        mode: "min" if lower is better, "max" if higher is; "auto" decides by the name, as for ``EarlyStopping``.
        background: write in a thread, from a copy of the state in memory.

    Attributes:
        saved_step: the step that was saved last in this fit, or that it was resumed at; None: none was.

    Raises:
        ValueError: an interval or ``keep`` below 1; at ``before_fit`` an unknown monitor, or a loader that cannot be
            resumed.
        TypeError: ``folder`` is no path; a state that could not be loaded again.
        OSError: the disk is full, or the folder is gone; the former checkpoints are whole.

    >>> Checkpoint(every_steps=500, keep=3).keep
    3
    """

    order = 90

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        every_steps: int | None = None,
        every_epochs: int | None = 1,
        every_seconds: float | None = None,
        keep: int | None = 2,
        monitor: str | None = None,
        mode: Literal["auto", "min", "max"] = "auto",
        background: bool = False,
    ):
        for name, number in {"every_steps": every_steps, "every_epochs": every_epochs, "keep": keep}.items():
            if number is not None and not (is_whole(number) and number > 0):
                raise ValueError(f"{name} is a whole number above 0, or None; got {number!r}")
        if every_seconds is not None and not (is_number(every_seconds) and every_seconds > 0):
            raise ValueError(f"every_seconds is above 0, or None; got {every_seconds!r}")
        check_folder(folder, "give the others by name, as in every_steps=500")
        self._given_folder = None if folder is None else Path(folder)
        self.every_steps, self.every_epochs, self.every_seconds = every_steps, every_epochs, every_seconds
        self.keep, self.monitor, self.background = keep, monitor, background
        self.best = None if monitor is None else Best(monitor, mode=mode)
        self.signals = SignalWatch()
        self.writer = StateWriter()
        self._saved_at, self._saved_step, self._due = 0.0, 0, False
        self.saved_step: int | None = None
        self._poll = ""
        self._soundness, self._ruined = Soundness(), False
        self.brings = (CrashReport(folder), self._soundness)

    def folder(self, learn: LearnerLike) -> Path:
        """Where the checkpoints of this learner's run are."""
        return (self._given_folder or learn.folder) / "checkpoints"

    def find_state(self, learn: LearnerLike, path: Path | None) -> tuple[dict[str, Any], Path] | None:
        """The state to go on from, and its file.

        Args:
            learn: the Learner.
            path: a checkpoint, or the folder of a run; None: this run's. None is found where nothing was saved yet.

        Raises:
            FileNotFoundError: nothing at the path.
            ValueError: what is there is damaged, or the run's folder has no name of its own.
        """
        if path is None:
            if self._given_folder is None and not learn.folder_given:
                raise ValueError(
                    "resume=True looks in the run's folder, which is named by the time unless it is given: "
                    "give Learner(folder=...) or Checkpoint(folder=...)"
                )
            return newest_checkpoint(self.folder(learn))
        if path.is_file():
            return load_checkpoint(path), path
        found = newest_checkpoint(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
        if found is None:
            raise FileNotFoundError(f"resume is a checkpoint or the folder of a run; there is none at {path}")
        return found

    def before_fit(self, learn: LearnerLike) -> None:
        """Look at what will be needed, make the folder, watch the signals."""
        refuse_persistent_workers(learn.train_dl)
        refuse_persistent_workers(learn.valid_dl)
        if self.monitor is not None:
            check_monitor(self.monitor, learn.monitors)
        refuse_unloadable({**snapshot(learn, of_all_ranks=False), "model": None})  # now, not after hours
        if is_main() and learn.n_epochs:
            self.folder(learn).mkdir(parents=True, exist_ok=True)
            learn.aside.move(self._left_over(learn), self.folder(learn))
        if self.best is not None:
            self.best = Best(self.best.monitor, mode=self.best.mode)
        self._saved_at, self._saved_step, self._due = time.monotonic(), learn.step, False
        self.saved_step = None if learn.resumed_from is None else learn.step
        self._ruined = False
        self.signals.start()

    def polls_of_ranks(self, learn: LearnerLike) -> dict[str, Callable[[], bool]]:
        """What ranks ask each other at every agreement, the same on all of them."""
        polls: dict[str, Callable[[], bool]] = {"signal": lambda: bool(self.signals.received)}
        if self.every_seconds is not None:
            self._saved_at, self._poll = time.monotonic(), f"seconds of checkpoint {learn.cbs.index(self)}"
            polls[self._poll] = self._has_waited
        return polls

    def after_batch(self, learn: LearnerLike) -> None:
        """Save in mid-epoch, where that is due."""
        if not learn.in_fit:
            return
        if not learn.engine.training or self.writer.failure is not None:
            return self.writer.raise_failure()
        if self.every_steps is not None and learn.step - self._saved_step >= self.every_steps:
            self._due = True
        if self.every_seconds is not None and self._asked(learn, self._poll, self._has_waited):
            self._due = True
        if (self._due or self._signalled(learn)) and learn.at_step_boundary and not learn.at_last_batch:
            self._save(learn)

    def after_validate(self, learn: LearnerLike) -> None:
        """Save at the end of an epoch; the fit's last one waits for ``after_fit``."""
        self.writer.raise_failure()
        if not _all_are_here(learn):  # on ranks a stop that was asked for just now is known to all from here on
            return
        best = self.best
        # NaN weights can have a good accuracy
        if best is not None and self._is_sound(learn) and best.update(learn.history[-1][best.monitor]):
            self._write(self.folder(learn) / "best.pt", snapshot(learn))
        if learn.ending:
            return
        every = self.every_epochs
        if self._due or self._signalled(learn) or (every is not None and (learn.epoch + 1) % every == 0):
            self._save(learn)

    def after_fit(self, learn: LearnerLike) -> None:
        """Save the end, which says whether the run is finished; not what is broken, nor half a step."""
        trained = learn.trainer.state.epoch > 0
        if trained and learn.outcome != "broken" and learn.at_step_boundary:
            self._save(learn, done=learn.outcome == "finished" and not learn.in_training_epoch)

    def cleanup_fit(self, learn: LearnerLike, error: BaseException | None) -> None:
        """Wait for the file that is being written, give the signals back."""
        self.signals.stop()
        self.writer.wait()
        if error is None:
            self.writer.raise_failure()
        elif self.writer.failure is not None:
            logging.getLogger("ignite_trainer").error(f"the last checkpoint was not written: {self.writer.failure}")
            self.writer.failure = None

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": None if self.best is None else self.best.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict``; a best value of another monitor is left out."""
        if self.best is not None and state["best"] is not None and state["best"]["monitor"] == self.best.monitor:
            self.best.load_state_dict(state["best"])

    def _left_over(self, learn: LearnerLike) -> list[Path]:
        """What lies in the folder and is not of this run: a later resume would go on from it, as its steps are more."""
        folder, origin = self.folder(learn), learn.resumed_from
        files = newest_first(folder)
        of_this_run = [cb.folder(learn).resolve() for cb in learn.cbs if isinstance(cb, Checkpoint)]
        if origin is not None and origin.parent.resolve() in of_this_run:
            files = list(takewhile(lambda path: path.name != origin.name, files))
        else:
            files += folder.glob("best.pt")
        return [part for path in files for part in (path, sum_file(path)) if part.exists()]

    def _has_waited(self) -> bool:
        return self.every_seconds is not None and time.monotonic() - self._saved_at >= self.every_seconds

    def _signalled(self, learn: LearnerLike) -> bool:
        return self._asked(learn, "signal", lambda: bool(self.signals.received))

    @staticmethod
    def _asked(learn: LearnerLike, name: str, here: Callable[[], bool]) -> bool:
        return here() if learn.ranks is None else name in learn.ranks.asked

    def _save(self, learn: LearnerLike, *, done: bool = False) -> None:
        if not _all_are_here(learn):
            return
        if self._is_sound(learn):
            self._write(self.folder(learn) / f"step-{learn.step:08d}.pt", snapshot(learn, done=done), keep=self.keep)
            self.saved_step = learn.step
        self._saved_at, self._saved_step, self._due = time.monotonic(), learn.step, False
        if learn.ranks is not None and self.every_seconds is not None:
            learn.ranks.asked.discard(self._poll)
        if self._signalled(learn) and not done:
            self.writer.wait()
            self.writer.raise_failure()
            if is_main():
                signal = self.signals.received or "a signal to another rank"
                newest = next(iter(newest_first(self.folder(learn))), "nothing")
                logging.getLogger("ignite_trainer").warning(
                    f"stopped by {signal} after step {learn.step}: {newest} can be resumed"
                )
            barrier()  # a launcher kills the other ranks when one has ended, and rank 0 writes
            raise SystemExit(EXIT_RESUMABLE)

    def _write(self, path: Path, state: dict[str, Any], *, keep: int | None = None) -> None:
        if is_main():
            self.writer.write(path, state, keep=keep, background=self.background)

    def _is_sound(self, learn: LearnerLike) -> bool:
        """Whether nobody has called the fit broken, and rank 0's weights are as finite as they were at the start."""
        return bool(of_main(self._is_sound_here(learn)))  # buffers may have gone bad on another alone

    def _is_sound_here(self, learn: LearnerLike) -> bool:
        if learn.outcome == "broken":
            return False
        bad = self._soundness.first_bad(learn.model)
        if bad and not self._ruined:
            self._ruined = True
            logging.getLogger("ignite_trainer").warning(
                f"a checkpoint is there to go on from, and after step {learn.step} {bad} is not finite: it is not "
                "saved, and the last good one stays; NaNGuard() ends such a fit"
            )
        return not bad


def _all_are_here(learn: LearnerLike) -> bool:
    """Whether no rank has cancelled before it came here: a save needs all of them; without it it stays due."""
    return learn.ranks is None or bool(learn.ranks.together(learn.trainer))
