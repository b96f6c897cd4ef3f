"""Resume: everything that a fit is at a moment, as plain data, and how it is put back, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .collectives import of_main
from .data import OrderedLoader
from .distributed import is_main, rank, world_size
from .epochs import batches_of
from .learner_like import LearnerLike
from .rank_states import gather_states, state_of_rank
from .rng import get_rng_state, rng_kept, set_rng_state
from .same_job import check_groups, check_state, generators_of, loss_state, options_of, stateful, warn_of_lost_state
from .shares import loader_identity

__all__ = ["WALL_CLOCK", "MidEpoch", "Resumption", "restore", "snapshot", "streams_kept"]

WALL_CLOCK = ("seconds", "time/samples_per_second")
"""The columns of a history and the tags of a dashboard that may differ between a run and its resumed twin."""


def snapshot(learn: LearnerLike, *, done: bool = False, of_all_ranks: bool = True) -> dict[str, Any]:
    """The state of a fit after the batch, or the epoch, that has just ended: plain data for ``weights_only`` loading.

    Args:
        learn: a Learner in a fit, between two optimizer steps.
        done: the fit is over; to run it again trains nothing.
        of_all_ranks: True: with each rank's own parts, and every rank has to call it; False: of this rank alone.
    """
    state = _snapshot(learn, done)
    if of_all_ranks and learn.ranks is not None:
        parts = {"model": learn.model, "loss": learn.loss_func}
        modules = {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}
        buffers = {name: {buffer for buffer, _ in part.named_buffers()} for name, part in modules.items()}
        state["ranks"] = gather_states(state, buffers)
    return state


def _snapshot(learn: LearnerLike, done: bool) -> dict[str, Any]:
    mid_epoch = learn.in_training_epoch
    epoch_start = learn.epoch_start if mid_epoch else None
    scaler = learn.scaler
    return {
        "format": 1,
        "model": learn.model.state_dict(),
        "loss": loss_state(learn),
        "optimizer": learn.opt.state_dict() if hasattr(learn.opt, "state_dict") else {},
        "scaler": {} if scaler is None else scaler.state_dict(),
        "callbacks": {name: cb.state_dict() for name, cb in stateful(learn.cbs).items()},
        "progress": {
            "epoch": learn.epoch if mid_epoch else learn.epoch + 1,
            "batch": learn.trainer.place + 1 if mid_epoch else 0,
            "iteration": learn.trainer.state.iteration,
            "step": learn.step,
            "n_epochs": learn.n_epochs,
            "done": done,
        },
        "history": [dict(row) for row in learn.history],
        "results": dict(learn.results),
        "train_loss": learn.train_loss.state() if mid_epoch else None,
        "options": options_of(learn),
        "train": _loader_state(learn.train_dl),
        "valid": _loader_state(learn.valid_dl),
        "epoch_start": epoch_start,
        "rng": get_rng_state(),
    }


def restore(learn: LearnerLike, state: dict[str, Any]) -> None:
    """Put a fit back where a ``snapshot`` was taken; the random generators last."""
    loads_optimizer = hasattr(learn.opt, "load_state_dict")
    with_state = {name: cb for name, cb in stateful(learn.cbs).items() if name in state["callbacks"]}
    if loads_optimizer:  # refused before anything is put back
        check_groups(learn.opt, state["optimizer"])
    for name, cb in with_state.items():
        if hasattr(cb, "check_state_dict"):
            cb.check_state_dict(state["callbacks"][name])
    learn.model.load_state_dict(state["model"])
    if state["loss"]:
        learn.loss_func.load_state_dict(state["loss"])
    if loads_optimizer:
        _load_optimizer(learn.opt, state["optimizer"])
    if learn.scaler is not None:
        learn.scaler.load_state_dict(state["scaler"])
    for name, cb in with_state.items():
        cb.load_state_dict(copy.deepcopy(state["callbacks"][name]))  # some keep or empty what they get
    progress = state["progress"]
    learn.step, learn.epoch = progress["step"], progress["epoch"]
    learn.history = [dict(row) for row in state["history"]]
    learn.results = dict(state["results"])
    if state["train_loss"] is not None:
        learn.train_loss.load(state["train_loss"], learn.device)
    for dl, saved in ((learn.train_dl, state["train"]), (learn.valid_dl, state["valid"])):
        if isinstance(dl, OrderedLoader):
            dl.set_epoch(saved["epoch"])
        else:
            _set_generators(dl, saved["generators"])
    set_rng_state(state["rng"])


def _load_optimizer(optimizer: Any, saved: dict[str, Any]) -> None:
    """Load its state; what a scheduler that was not there has just put into the groups stays in them."""
    prepared = [dict(group) for group in getattr(optimizer, "param_groups", ())]
    optimizer.load_state_dict(saved)
    for group, before in zip(getattr(optimizer, "param_groups", ()), prepared, strict=True):
        for name, value in before.items():
            group.setdefault(name, value)


class Resumption:
    """How a fit goes on from a saved state: found and checked before it begins, put back once ``before_fit`` has run.

    Args:
        learn: the Learner.
    """

    def __init__(self, learn: LearnerLike):
        self.learn = learn
        self._state: dict[str, Any] | None = None
        learn.trainer.before_loader = self._remember_epoch_start

    def find(self, resume: bool | str | Path) -> tuple[dict[str, Any], Path] | None:
        """This rank's state to resume from, and its file; None: the fit starts afresh.

        Args:
            resume: False: do not resume; True: from the newest checkpoint of the run's folder; or a path.

        Raises:
            TypeError: ``resume`` is something else.
            ValueError: no ``Checkpoint``, no folder, another job's state.
        """
        if not isinstance(resume, (bool, str, Path)):
            raise TypeError(f"resume is True, False, or a path; got {resume!r}")
        learn = self.learn
        checkpoint = next((cb for cb in learn.cbs if hasattr(cb, "find_state")), None)
        if resume is False:
            return None
        if checkpoint is None:
            raise ValueError("resume goes on from what a Checkpoint has saved; this Learner has none: add Checkpoint()")
        found = error = None
        if is_main():  # the others may not see its folder
            try:
                found = checkpoint.find_state(learn, None if resume is True else Path(str(resume)))
            except (OSError, ValueError) as raised:
                error = raised
        found, error = of_main((found, error))
        if error is not None:
            raise error
        if found is None:
            return None
        state, path = found
        check_state(learn, state, path)
        return state_of_rank(state, rank(), world_size()), path

    def begin(self, found: tuple[dict[str, Any], Path] | None) -> tuple[int, int]:
        """Begin with what was found; returns how many epochs and iterations are done already."""
        learn = self.learn
        self._state, learn.resumed_from = found or (None, None)
        if self._state is None:
            return 0, 0
        state, n_epochs, progress = self._state, learn.n_epochs, self._state["progress"]
        learn.step, learn.history = progress["step"], list(state["history"])
        if (progress["done"] and n_epochs <= progress["n_epochs"]) or progress["epoch"] >= n_epochs:
            learn.stop_reason = (
                f"finished before, after epoch {progress['epoch']} and step {learn.step}; nothing was left to train"
            )
            return n_epochs, 0
        warn_of_lost_state(learn, learn.resumed_from, state["callbacks"])
        if progress["batch"]:
            learn.trainer.opener = MidEpoch(learn, state).begin
        return progress["epoch"], progress["iteration"]

    def put_back(self) -> None:
        """At STARTED, after the callbacks' ``before_fit``; in mid-epoch all is put back once more, there."""
        state, self._state = self._state, None
        if state is not None:
            restore(self.learn, state)

    def _remember_epoch_start(self, loader: Any) -> None:
        self.learn.epoch_start = epoch_start(loader)


class MidEpoch:
    """How to continue in an epoch that was interrupted: the batches that were done are skipped, or read and dropped.

    Args:
        learn: the Learner.
        state: a ``snapshot`` taken between two batches.
    """

    def __init__(self, learn: LearnerLike, state: dict[str, Any]):
        self.learn, self.state = learn, state

    def begin(self, epochs: Any) -> Iterator[Any]:
        """The rest of the epoch's batches; everything is as it was once the iterator is made."""
        done, loader, start = self.state["progress"]["batch"], epochs.loader, self.state["epoch_start"]
        if isinstance(loader, OrderedLoader):
            loader.seek(start["epoch"], start["batch"] + done)
            batches: Iterator[Any] = iter(loader)
        else:
            _set_generators(loader, start["generators"])
            set_rng_state(start["rng"])
            batches = batches_of(loader)
            for i in range(done):
                if next(batches, epochs) is epochs:
                    raise ValueError(
                        f"a resumed epoch goes on behind the {done} batches that were done; the training loader now "
                        f"gives {i}: the same data and batch_size are needed to resume"
                    )
        self.learn.trainer.place = done - 1
        self.learn.epoch_start = start
        restore(self.learn, self.state)
        return batches


def epoch_start(loader: Any) -> dict[str, Any]:
    """What a loader's order depends on, just before it is iterated: a callback that iterates it later moves that."""
    if isinstance(loader, OrderedLoader):
        return {"epoch": loader.order.epoch, "batch": loader.order.batch}
    return {"rng": get_rng_state(), "generators": [generator.get_state() for generator in generators_of(loader)]}


@contextmanager
def streams_kept(loader: Any) -> Iterator[None]:
    """In here a loader may be read; its place, its generators and the global ones are put back."""
    generators = [generator.get_state() for generator in generators_of(loader)]
    place = (loader.order.epoch, loader.order.batch) if isinstance(loader, OrderedLoader) else None
    with rng_kept():
        try:
            yield
        finally:
            if place is not None:
                loader.seek(*place)
            _set_generators(loader, generators)


def _loader_state(loader: Any) -> dict[str, Any]:
    """What a loader is, and where its next iteration begins."""
    state: dict[str, Any] = {"identity": loader_identity(loader)}
    if isinstance(loader, OrderedLoader):
        return {**state, "epoch": loader.order.epoch}
    return {**state, "generators": [generator.get_state() for generator in generators_of(loader)]}


def _set_generators(loader: Any, states: list[torch.Tensor]) -> None:
    for generator, state in zip(generators_of(loader), states, strict=True):
        generator.set_state(state)
