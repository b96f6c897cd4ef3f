"""The files of a run besides its dashboard: its values, its history and its best weights."""

from __future__ import annotations

import csv
import io
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from ..arguments import check_folder
from ..callbacks import Callback
from ..distributed import is_main
from ..files import write_aside
from ..learner_like import LearnerLike
from ..weights import refuse_unsavable, save_weights
from .best import Best, BestState, check_monitor
from .run_config import name_of, run_config
from .soundness import Soundness

__all__ = ["RunFiles"]


class RunFiles(Callback):
    """Writes ``config.yaml``, ``history.csv`` and ``model.safetensors`` into the folder of the run.

    ``config.yaml`` has the settings as ``name: {value: …, from: …}``, those of a command line below ``job``. The
    history is rewritten as a whole after every epoch. The weights are those of the epoch with the best monitored value,
    or the last ones if there is no such value, and never ones that have become NaN or infinite. The file's metadata
    says which: ``weights`` ("best valid_loss" or "last"), ``value``, ``epoch``, ``step``, ``model``. Read them with
    ``learn.load(path)``, or ``safetensors.torch.load_model(model, path)``.

    Files are replaced as a whole, so none is ever half written. A fit that begins anew in the folder of an earlier one
    moves that one's history and weights into ``earlier-1``, with a copy of its settings. If the disk fails, each file
    that could not be written is a warning in the log, and the run goes on.

    Args:
        folder: of the run; None: ``learn.folder``.
        monitor: a key of a history row that says which weights are best; where a fit has none such, the last are kept.
        mode: "min" if lower is better, "max" if higher is; "auto" decides by the name.
        job: the options of the command line that made this run; None: no such section.

    >>> RunFiles(monitor="valid_accuracy").best.mode
    'max'
    """

    order = 65

    def __init__(
        self,
        folder: str | Path | None = None,
        monitor: str = "valid_loss",
        *,
        mode: Literal["auto", "min", "max"] = "auto",
        job: Any = None,
    ):
        check_folder(folder)
        self.folder, self.best, self.job = folder, Best(monitor, mode=mode), job
        self._fresh = self.best.state_dict()
        self._soundness = Soundness()
        self.brings = (self._soundness,)

    def before_fit(self, learn: LearnerLike) -> None:
        """Make the folder, write the values."""
        import yaml

        refuse_unsavable(learn.model)
        self._folder, self._failed = Path(self.folder or learn.folder), set[str]()
        if learn.validates:
            check_monitor(self.best.monitor, learn.monitors)
        if not learn.step:
            self.best.load_state_dict(self._fresh)
            if learn.n_epochs and is_main():
                self._set_aside(learn)
        values = run_config(learn) if self.job is None else {"job": self.job, **run_config(learn)}
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        self._write("config.yaml", lambda path: path.write_text(text, encoding="utf-8"))

    def after_validate(self, learn: LearnerLike) -> None:
        """Write the history, and the weights if they are the best."""
        columns = list(dict.fromkeys(key for row in learn.history for key in row))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(learn.history)
        self._write("history.csv", lambda path: path.write_text(text.getvalue(), encoding="utf-8"))
        row = learn.history[-1]
        if learn.outcome == "broken" or self._soundness.first_bad(learn.model):  # NaN weights can have a good accuracy
            return
        if self.best.monitor not in row:
            self._write_weights(learn, {"weights": "last"})
        elif self.best.update(row[self.best.monitor]) or self.best.best is None:  # None: all were NaN so far
            kind = "last" if self.best.best is None else f"best {self.best.monitor}"
            self._write_weights(learn, {"weights": kind, "value": repr(row[self.best.monitor])})

    def state_dict(self) -> BestState:
        """The best value so far."""
        return self.best.state_dict()

    def load_state_dict(self, state: BestState) -> None:
        """Go on from a ``state_dict``, before or after ``before_fit``."""
        self.best.load_state_dict(state)

    def _set_aside(self, learn: LearnerLike) -> None:
        """What an earlier fit has come to; its values stay, as a run without them could not be resumed."""
        names = ("history.csv", "model.safetensors")
        try:
            earlier = learn.aside.move([path for name in names for path in self._folder.glob(name)], self._folder)
            if earlier is not None:
                for path in self._folder.glob("config.yaml"):
                    shutil.copy2(path, earlier)
        except OSError as error:
            logging.getLogger("ignite_trainer").warning(
                "what an earlier fit has left in %s is not set aside, or only in part: %s", self._folder, error
            )

    def _write_weights(self, learn: LearnerLike, metadata: dict[str, str]) -> None:
        about = {"epoch": str(learn.epoch), "step": str(learn.step), "model": name_of(learn.model)}
        self._write("model.safetensors", lambda path: save_weights(learn.model, path, {**metadata, **about}))

    def _write(self, name: str, write: Callable[[Path], Any]) -> None:
        if not is_main():
            return
        try:
            write_aside(self._folder / name, write)
        except OSError as error:
            if name not in self._failed:
                self._failed.add(name)
                logging.getLogger("ignite_trainer").warning(
                    "%s is not written, training goes on without it: %s", self._folder / name, error
                )
