"""TensorBoard: the run as a dashboard, without a line of logging code."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_folder, is_whole
from ..callbacks import Callback
from ..collectives import sum_float64
from ..distributed import is_main
from ..learner_like import LearnerLike
from ..loss_size import first_dimension
from . import dashboard
from .event_files import EventFile
from .run_config import class_names, run_config
from .validation_record import ValidationRecord

__all__ = ["TensorBoard"]


class TensorBoard(Callback):
    """Writes the run for TensorBoard; open it with ``tensorboard --logdir runs``.

    Every epoch: ``loss/train``, ``loss/valid``, ``<metric>/valid``, ``time/epoch``, ``time/samples_per_second``,
    confusion matrix, PR curves (both up to 20 classes), the worst predictions of the validation, histograms of the
    weights. Every ``every_steps`` steps: ``loss/batch``, the mean since the last point; ``norm/gradient_mean`` and
    ``norm/gradient_max``, over the first and the middle one of those steps; ``lr/group0``, …. From the start: the
    values of the run as text and as hparams, a chart of train over valid. The x axis is ``learn.step``. At the end
    ``report.png`` shows the same numbers. What does not apply to a job, as a confusion matrix to a regression, is left
    out. Of several ranks, rank 0 writes; ``loss/batch`` covers its own shares, everything else all ranks.

    None of this changes a bit of the training. Batch losses and gradient norms stay on the device until they are
    written; the file is flushed at every write and closed however the fit ends. A disk that fails ends the dashboard
    with one warning in the log, not the training. A fit that resumes at step s drops what was written after s; one that
    starts in a folder with event files moves those into ``earlier-1``, and the report with them.

    Args:
        folder: of the run; None: ``learn.folder``.
        every_steps: optimizer steps between two points of ``loss/batch`` and the gradient norm.
        images: show a batch of training images, the worst predictions and the confusion matrix.
        histograms: of every parameter, once an epoch.
        pr_curves: precision and recall of each class.
        graph: the model's graph, traced once on a copy with the first batch.
        hparams: name → number, string or bool, shown besides the learner's own.

    Raises:
        ValueError: ``every_steps`` is no whole number from 1.
        TypeError: a value of ``hparams`` is nothing that the HParams page can show.

    >>> TensorBoard(every_steps=10, hparams={"width": 128}).every_steps
    10
    """

    order = 60

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        every_steps: int = 50,
        images: bool = True,
        histograms: bool = True,
        pr_curves: bool = True,
        graph: bool = False,
        hparams: Mapping[str, Any] | None = None,
    ):
        check_folder(folder, "give the others by name, as in every_steps=50")
        if not is_whole(every_steps) or every_steps < 1:
            raise ValueError(f"every_steps is a number of optimizer steps, a whole one from 1; got {every_steps!r}")
        for name, value in (hparams or {}).items():
            if not isinstance(value, (bool, int, float, str)):
                raise TypeError(f"a value of hparams is a number, a string or a bool; got {value!r} for {name!r}")
        self.folder, self.every_steps, self.hparams = folder, every_steps, dict(hparams or {})
        self.images, self.histograms, self.pr_curves, self.graph = images, histograms, pr_curves, graph
        self.events: EventFile | None = None
        self.validation: ValidationRecord | None = None
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []

    # ---- the points ----------------------------------------------------------------------------------------------

    def before_fit(self, learn: LearnerLike) -> None:
        """Open the event file; a fresh run begins with its values, its hparams and the layout of its charts."""
        self._folder = Path(self.folder or learn.folder)
        is_over = bool(learn.stop_reason)  # a finished run that is resumed: nothing is added to it
        enabled = is_main() and not is_over
        self.events = EventFile(self._folder, step=learn.step, enabled=enabled, aside=learn.aside)
        self.validation, self._names, self._shown = None, class_names(learn.train_dl, learn.valid_dl), bool(learn.step)
        self._read_at, self._n_samples = learn.step, 0
        self._began = self._ended = 0.0
        self._written: ValidationRecord | None = None  # of an epoch whose validation is cancelled there may be none
        if not learn.step:
            dashboard.write_start(self.events, learn, run_config(learn), self.hparams)
        self.events.flush()

    def before_epoch(self, learn: LearnerLike) -> None:
        """Begin to measure a training epoch, or to record a validation."""
        if learn.engine.training:
            self._began = self._ended = time.perf_counter()
            self._n_samples = 0
            self._parameters = list(learn.model.parameters())
        elif self.events is not None and learn.validating:  # not where a callback evaluates
            self.validation = ValidationRecord(learn.loss_func, images=self.images, pr_curves=self.pr_curves)

    def after_step(self, learn: LearnerLike) -> None:
        """Take the norm of the gradients that the step was made with."""
        if self.events is None:
            return
        if not self._norms or (learn.step - 1) % self.every_steps == self.every_steps // 2:
            self._norms.append(dashboard.gradient_norm(self._parameters))

    def after_batch(self, learn: LearnerLike) -> None:
        """Take the batch's loss, or its predictions."""
        if self.events is None:
            return
        if not learn.engine.training:
            if self.validation is not None and learn.validating:
                self.validation.update(learn.batch[0], learn.preds, learn.batch[1])
            return
        if isinstance(learn.loss, Tensor):
            self._losses.append(learn.loss.detach())
        self._n_samples += _n_samples(learn)
        self._ended = time.perf_counter()
        if not self._shown:
            self._show_first_batch(learn)
        if learn.step // self.every_steps > self._read_at // self.every_steps:
            self._write_steps(learn)

    def after_epoch(self, learn: LearnerLike) -> None:
        """Add up what the validation gave, over all ranks."""
        if self.validation is None or not learn.validating:
            return
        if learn.ranks is None:
            self.validation.finish()
        elif learn.ranks.together(learn.evaluator):
            self.validation.finish(learn.ranks.places(learn.dl))

    def after_validate(self, learn: LearnerLike) -> None:
        """Write the epoch's row, pictures, curves and histograms."""
        if self.events is None:
            return
        n_samples = self._n_samples
        if learn.ranks is not None and learn.ranks.together(learn.trainer):
            n_samples = int(sum_float64(torch.tensor(n_samples)))
        if not self.events.is_open:
            return
        self._write_steps(learn)
        scalars = dashboard.row_scalars(learn.history[-1])
        if n_samples and self._ended > self._began:
            scalars["time/samples_per_second"] = n_samples / (self._ended - self._began)
        self.events.add_scalars(scalars, learn.step)
        if self.validation is not None and self.validation.finished and self.validation is not self._written:
            dashboard.write_validation(self.events, self.validation, self._names, learn.step)
            self._written = self.validation
        if self.histograms:
            dashboard.write_histograms(self.events, learn.model, learn.step)
        self.events.flush()

    def cleanup_fit(self, learn: LearnerLike, error: BaseException | None) -> None:
        """Write what is left, the session's end and the report, and close the event file, whatever happened."""
        if self.events is None:
            return
        events, self.events = self.events, None
        try:
            if events.is_open:
                if not _are_in_a_checkpoint(learn, error):  # else they are a point of the run that goes on
                    dashboard.write_scalars_of_steps(events, learn, self._losses, self._norms)
                dashboard.write_end(events, error)
                dashboard.write_report(self._folder, learn, self.validation, self._names)
        finally:
            events.close()
            self._losses, self._norms, self.validation = [], [], None

    # ---- to go on ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The losses and norms that are not written yet."""
        return {"losses": [loss.cpu() for loss in self._losses], "norms": [norm.cpu() for norm in self._norms]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict``, before or after ``before_fit``."""
        self._losses, self._norms = list(state["losses"]), list(state["norms"])

    # ---- how -----------------------------------------------------------------------------------------------------

    def _write_steps(self, learn: LearnerLike) -> None:
        assert self.events is not None
        self._read_at = learn.step
        dashboard.write_scalars_of_steps(self.events, learn, self._losses, self._norms)
        self._losses, self._norms = [], []
        self.events.flush()

    def _show_first_batch(self, learn: LearnerLike) -> None:
        self._shown = True
        assert self.events is not None
        if self.events.is_open and self.images:
            dashboard.write_batch(self.events, learn.batch, self._names, learn.step)
        if self.events.is_open and self.graph:
            dashboard.write_graph(self.events, learn.model, learn.batch[0])
        self.events.flush()


def _are_in_a_checkpoint(learn: LearnerLike, error: BaseException | None) -> bool:
    """Whether the losses that are left at a fit's end were saved at its last step, to be gone on with."""
    if learn.outcome == "resumable" or isinstance(error, SystemExit):
        return True
    steps = [getattr(cb, "saved_step", None) for cb in learn.cbs]
    return (error is not None or learn.outcome == "broken") and learn.step in steps


def _n_samples(learn: LearnerLike) -> int:
    try:
        return first_dimension(learn.preds, learn.batch[1])
    except TypeError:  # nothing tells, as where a model returns its loss
        return 0
