"""Crash reports: the batch in which a fit broke, with all that is needed to run it once more."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..callbacks import Callback
from ..data import OrderedLoader
from ..events import POINTS, Scope
from ..files import write_whole
from ..learner_like import LearnerLike
from ..resume import snapshot
from .guards import NaNGuard
from .state_files import load_state

__all__ = ["CrashReport", "load_crash"]

_BATCH_EVENTS = {point.event.name for point in POINTS.values() if point.event and point.scope is Scope.BATCH}


class CrashReport(Callback):
    """Writes ``folder/crash.pt`` when an exception leaves a batch or NaNGuard ends the fit; a Checkpoint adds it.

    ``ignite-trainer replay crash.pt my_job:make`` runs that batch again. The file has the batch, the indices of its
    samples if the loader is one of this package, weights, optimizer and callbacks' states, and torch's generators as
    they were when the batch began. Python's and NumPy's are those at the failure, as it would take too long to note
    them for each batch. The weights are those before the batch's step, unless ``step_taken``. After a forward pass,
    batch norm's statistics include this batch already. Gradients of an open window, and what a metric has added up, are
    not kept, nor are kinds of the batch's parts that are no tensors, tuples, lists, dicts, numbers or strings: the
    contents are. Of several ranks the one that failed writes its share, rank 1 as ``crash-rank1.pt``.

    Args:
        folder: of the run; None: ``learn.folder``.

    >>> CrashReport("runs/mlp").folder
    'runs/mlp'
    """

    order = -1_000_000  # before all that may raise in the batch

    def __init__(self, folder: str | Path | None = None):
        self.folder = folder
        self._batch: tuple[Any, ...] | None = None
        self._is_over = False

    def before_fit(self, learn: LearnerLike) -> None:
        """Begin anew."""
        self._batch = None

    def before_batch(self, learn: LearnerLike) -> None:
        """Note the batch and torch's generators, before anybody else."""
        if learn.outcome == "broken":  # by a guard at the epoch's end: the validation that follows is not to blame
            return
        if not learn.engine.training and not learn.validating:  # a callback evaluates, amid a batch that may yet break
            return
        on_device = torch.cuda.get_rng_state(learn.device) if learn.device.type == "cuda" else None
        self._batch = learn.engine, learn.batch, learn.step, torch.get_rng_state(), on_device
        self._is_over = False

    def after_epoch(self, learn: LearnerLike) -> None:
        """The last batch is over: what raises from here on, such as an evaluation of a callback's, is not of it."""
        if learn.engine.training or learn.validating:
            self._is_over = True

    def cleanup_fit(self, learn: LearnerLike, error: BaseException | None) -> None:
        """Write the report, first of all callbacks: the others then put other weights into the model."""
        begun, self._batch = self._batch, None
        if begun is None or not _broke_a_batch(learn, error, self._is_over):
            return
        number = 0 if learn.ranks is None else learn.ranks.rank
        path = Path(self.folder or learn.folder) / (f"crash-rank{number}.pt" if number else "crash.pt")
        try:
            report = _report(learn, error, *begun)
            write_whole(path, lambda file: torch.save(report, file))
        except Exception as failure:
            if error is None:
                raise
            text = f"no crash report was written to {path}: {type(failure).__name__}: {failure}"
            logging.getLogger("ignite_trainer").warning(text)  # the fit's own error goes on
        else:
            logging.getLogger("ignite_trainer").info(f"the batch that broke is in {path}")


def load_crash(path: str | Path) -> dict[str, Any]:
    """A crash report; no code in it is run.

    Returns:
        ``phase``, ``epoch``, ``batch``, ``samples``, ``inputs``, ``step_taken``, ``error`` (type, text, raised_by),
        ``first_bad`` (of ``NaNGuard``), and ``state``, a ``snapshot``.

    Raises:
        ValueError: the file is damaged, or something else.
    """
    return load_state(Path(path), "crash report", "crash 2", "take crash.pt of the run")


def event_of(raised_by: str) -> str:
    """The Ignite event at which a callback or handler raised, by what ``error.raised_by`` says; empty for none.

    >>> event_of("NaNGuard.after_loss"), event_of("handler at STEPPED"), event_of("the step")
    ('LOSS_COMPUTED', 'STEPPED', '')
    """
    point = raised_by.rpartition(".")[2]
    if point in POINTS:
        event = POINTS[point].event
        return "" if event is None else event.name
    return raised_by.rpartition(" at ")[2] if " at " in raised_by else ""


def _broke_a_batch(learn: LearnerLike, error: BaseException | None, is_over: bool) -> bool:
    if error is None:
        here = learn.ranks is None or learn.ranks.stopped_by == learn.ranks.rank
        return bool(learn.outcome == "broken" and here)
    raised_by = getattr(error, "raised_by", "")
    in_batch = raised_by == "the step" or event_of(raised_by) in _BATCH_EVENTS
    return isinstance(error, FloatingPointError) or (isinstance(error, Exception) and in_batch and not is_over)


def _report(
    learn: LearnerLike,
    error: BaseException | None,
    engine: Any,
    batch: Any,
    step: int,
    generator: Tensor,
    on_device: Any,
) -> dict[str, Any]:
    state = snapshot(learn, of_all_ranks=False)  # an exception: the others are not here
    iteration = learn.trainer.state.iteration - engine.training  # as it was before this batch
    state["progress"] |= {"epoch": learn.epoch, "batch": engine.place, "iteration": iteration, "step": step}
    state["rng"]["torch"] = generator
    if on_device is not None:
        state["rng"]["cuda"][learn.device.index or 0] = on_device
    changed = set[str]()
    inputs = _plain(batch, changed)
    found = next((cb.found for cb in learn.cbs if isinstance(cb, NaNGuard) and cb.found is not None), None)
    return {
        "format": "crash 2",
        "phase": engine.phase,
        "epoch": learn.epoch,
        "batch": engine.place,
        "samples": _samples(learn, engine.place, training=engine.training),
        "inputs": inputs,
        "changed_kinds": sorted(changed),
        "step_taken": learn.step > step,
        "error": {
            "type": "" if error is None else type(error).__name__,
            "text": learn.stop_reason if error is None else str(error),
            "raised_by": getattr(error, "raised_by", ""),
        },
        "first_bad": None if found is None else _first_bad(learn, *found),
        "state": state,
    }


def _first_bad(learn: LearnerLike, epoch: int, batch: int) -> dict[str, Any]:
    return {"epoch": epoch, "batch": batch, "samples": _samples(learn, batch, training=True)}


def _samples(learn: LearnerLike, batch: int, *, training: bool) -> list[int] | None:
    """Which samples this rank has of a batch of the epoch that is running."""
    loader, start = learn.train_dl if training else learn.valid_dl, learn.epoch_start
    if not isinstance(loader, OrderedLoader) or (training and start is None):
        return None
    epoch, first = loader.order.epoch - 1, 0
    if training and start is not None:
        epoch, first = start["epoch"], start["batch"]  # of a loader that was put elsewhere before the fit
    order = copy.copy(loader.order)  # the loader is whole again by now
    if learn.ranks is not None:
        order.shard(learn.ranks.rank, learn.ranks.world)
    samples: list[int] = order.indices(epoch)[order.share(first + batch)].tolist()
    return samples


def _plain(value: Any, changed: set[str]) -> Any:
    """The same nest of tensors, numbers and strings, for ``weights_only`` loading; anything else as its text.

    Args:
        value: a batch, or a part of it.
        changed: gets the names of the kinds that are another kind in the result.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu().as_subclass(Tensor)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(value)
    if type(value) in (int, float, bool, str, bytes, type(None)):
        return value
    if type(value) not in (dict, list, tuple):
        changed.add(type(value).__name__)
    if isinstance(value, dict):
        return {_plain(key, changed): _plain(part, changed) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [_plain(part, changed) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    return repr(value)
