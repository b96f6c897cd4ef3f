"""Progress on the screen: a bar while an epoch runs, a line when it is over."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from ..callbacks import Callback
from ..distributed import is_main
from ..epochs import loader_length
from ..learner_like import LearnerLike

__all__ = ["Progress"]


class Progress(Callback):
    """A tqdm bar over each epoch's batches in a terminal or notebook; everywhere, a line for each finished epoch.

    The line looks like ``Epoch 1/5, Training Loss: 0.3167, Validation Loss: 0.1802, Validation Accuracy: 95.05%``. In a
    pipe or a log file there is no bar. The losses are read from the device once an epoch. Of several ranks, rank 0
    shows it.

    Args:
        bar: None: where standard error is a terminal, and in notebooks.
        file: where the lines go; None: standard output.

    >>> import torch
    >>> from ignite_trainer import Learner
    >>> model = torch.nn.Linear(1, 1)
    >>> zeros = [torch.nn.init.zeros_(parameter) for parameter in model.parameters()]
    >>> data = [(torch.ones(2, 1), torch.ones(2, 1))]
    >>> cbs = [Progress(bar=False)]
    >>> results = Learner(model, (data, data), torch.nn.MSELoss(), 0.25, cbs, device="cpu").fit(2)
    Epoch 1/2, Training Loss: 1.0000, Validation Loss: 0.0000
    Epoch 2/2, Training Loss: 0.0000, Validation Loss: 0.0000
    """

    order = 70

    def __init__(self, *, bar: bool | None = None, file: TextIO | None = None):
        self._file = file
        self._bars: dict[str, Any] = {}  # by phase: a callback may evaluate within a training epoch
        in_terminal = sys.stderr is not None and sys.stderr.isatty()  # a daemon may have none
        self._shows_bar = bool(bar or (bar is None and (in_terminal or "ipykernel" in sys.modules)))
        if not self._shows_bar:
            self._leave_out("before_epoch", "after_batch", "after_epoch")

    def after_validate(self, learn: LearnerLike) -> None:
        """Close the bars, write the epoch's line."""
        self._close(*self._bars)
        if not is_main():
            return
        row = learn.history[-1]
        parts = [f"Epoch {learn.epoch + 1}/{learn.n_epochs}", f"Training Loss: {row['train_loss']:.4f}"]
        for key, value in row.items():
            if key.startswith("valid_"):
                name = key.removeprefix("valid_").replace("_", " ").title()
                parts.append(f"Validation {name}: " + (f"{value:.2%}" if key.endswith("accuracy") else f"{value:.4f}"))
        print(", ".join(parts), file=self._file or sys.stdout, flush=True)

    def cleanup_fit(self, learn: LearnerLike, error: BaseException | None) -> None:
        """Close the bars, whatever happened; say why the fit ended early, if it did."""
        self._close(*self._bars)
        if learn.stop_reason and is_main():
            print(learn.stop_reason, file=self._file or sys.stdout, flush=True)

    def before_epoch(self, learn: LearnerLike) -> None:
        """Open the bar of a phase."""
        from tqdm.auto import tqdm

        phase, training = learn.engine.phase, learn.engine.training
        in_epoch = learn.in_fit and (training or learn.validating)
        self._close(*(self._bars if in_epoch else [phase]))
        if not is_main() or not self._shows_bar:
            return
        try:
            total = loader_length(learn.dl)
        except TypeError:
            total = None
        outside = "training" if training else "evaluation"
        what = f"Epoch {learn.epoch + 1}/{learn.n_epochs} {phase}" if in_epoch else outside
        self._bars[phase] = tqdm(total=total, desc=what, leave=False, unit="batch")

    def after_batch(self, learn: LearnerLike) -> None:
        """Move the bar on."""
        if learn.engine.phase in self._bars:
            self._bars[learn.engine.phase].update()

    def after_epoch(self, learn: LearnerLike) -> None:
        """Close the bar; an evaluation outside a fit has no later point."""
        self._close(learn.engine.phase)

    def _close(self, *phases: str) -> None:
        for phase in phases:
            if phase in self._bars:
                self._bars.pop(phase).close()
