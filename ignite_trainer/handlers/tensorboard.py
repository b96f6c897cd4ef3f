"""TensorBoard: the run as a dashboard, without a line of logging code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..callbacks import Callback

__all__ = ["TensorBoard"]


class TensorBoard(Callback):
    """Writes each epoch's losses, metrics and learning rates for TensorBoard; open it with ``tensorboard --logdir``.

    Tags are ``loss/train``, ``loss/valid``, ``<metric>/valid``, ``lr/group0``, …, ``time/epoch``; the x axis of all is
    ``learn.step``. The file is flushed after every epoch, and closed however the fit ends.

    Args:
        folder: of the run; None: ``learn.folder``.
    """

    order = 60

    def __init__(self, folder: str | Path | None = None):
        self.folder = folder
        self.writer: Any = None

    def before_fit(self, learn: Any) -> None:
        """Open the event file."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder or learn.folder))

    def after_validate(self, learn: Any) -> None:
        """Write the epoch's row."""
        scalars = {"time/epoch": learn.epoch + 1}
        for key, value in learn.history[-1].items():
            if key == "train_loss":
                scalars["loss/train"] = value
            elif key.startswith("valid_"):
                scalars[f"{key.removeprefix('valid_')}/valid"] = value
        for index, group in enumerate(getattr(learn.opt, "param_groups", [])):
            scalars[f"lr/group{index}"] = group["lr"]
        for tag, value in scalars.items():
            self.writer.add_scalar(tag, value, learn.step)
        self.writer.flush()

    def cleanup_fit(self, learn: Any, error: BaseException | None) -> None:
        """Close the event file, whatever happened."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None
