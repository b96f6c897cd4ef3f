"""What the learner is to those below it: callbacks, handlers, validation, resuming, ranks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from ignite.metrics import Metric
from torch import nn

from .engines import CancellableEngine
from .files import Aside
from .optim import OptimizerOptions

__all__ = ["LearnerLike"]

Outcome = Literal["finished", "resumable", "broken"]


class LearnerLike(Protocol):
    """The names of a ``Learner`` that others use; its docstring says what they mean."""

    # ---- what it is made of
    model: nn.Module
    loss_func: Any
    lr: Any
    opt_func: Any
    optimizer_options: OptimizerOptions
    opt: Any
    device: torch.device
    device_given: bool
    folder_given: bool
    trainer: CancellableEngine
    evaluator: CancellableEngine
    train_loss: Any  # a metrics.Loss, which lies above
    ranks: Any  # a ranks.Ranks, which lies above; None: there are none

    @property
    def cbs(self) -> list[Any]: ...
    @property
    def dls(self) -> Any: ...
    @property
    def train_dl(self) -> Any: ...
    @property
    def valid_dl(self) -> Any: ...
    @property
    def validates(self) -> bool: ...
    @property
    def metrics(self) -> Mapping[str, Metric]: ...
    @property
    def accumulate(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def prepare_batch(self) -> Any: ...
    @property
    def has_own_step(self) -> bool: ...
    @property
    def batches_in_step(self) -> int: ...
    @property
    def scaler(self) -> Any: ...
    @property
    def monitors(self) -> list[str]: ...
    @property
    def folder(self) -> Path: ...

    # ---- the batch that is running
    engine: CancellableEngine
    dl: Any
    batch: Any
    preds: Any
    loss: Any
    forward: Any
    prepare_pair: Any

    @property
    def iter(self) -> int: ...
    @property
    def at_step_boundary(self) -> bool: ...
    @property
    def at_last_batch(self) -> bool: ...

    # ---- the fit that is running
    epoch: int
    step: int
    n_epochs: int
    history: list[dict[str, float]]
    results: dict[str, float]
    stop_reason: str
    outcome: Outcome
    resumed_from: Path | None
    aside: Aside
    in_fit: bool
    validating: bool
    in_training_epoch: bool
    epoch_start: dict[str, Any] | None
    epoch_began: float
    called_by_name: set[str]

    @property
    def ending(self) -> bool: ...

    # ---- what it does
    def stop(self, reason: str, *, outcome: Outcome = "finished") -> None: ...
    def autocast(self) -> AbstractContextManager[Any]: ...
    def evaluate(self, dl: Any = None) -> dict[str, float]: ...
    def run_evaluator(self, dl: Any) -> dict[str, float]: ...
    def share_model(self) -> None: ...
    def name_folder(self) -> Path: ...
    def use_folder(self, folder: Path) -> None: ...
    def load(self, path: str | Path) -> None: ...
