"""A model's outputs for a loader, joined in the loader's order."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from .data import OrderedLoader
from .epochs import batches_of, check_loader
from .learner_like import LearnerLike
from .modes import modes_kept
from .steps import on_device

__all__ = ["predict"]


def predict(learn: LearnerLike, dl: Any) -> Tensor:
    """What ``Learner.predict`` gives: (N, …) on the CPU, on every rank."""
    check_loader(dl, 1, "prediction")
    outputs, ranks = [], learn.ranks
    learn.share_model()
    with nullcontext() if ranks is None else ranks.share_of(dl, training=False):
        first = dl.order.batch if isinstance(dl, OrderedLoader) else 0
        with modes_kept(learn.model), torch.no_grad():
            learn.model.eval()
            for batch in batches_of(dl):
                with learn.autocast():
                    output = learn.forward(_input_of(learn, batch))
                if not isinstance(output, Tensor) or not output.ndim:
                    what = "a 0-d tensor" if isinstance(output, Tensor) else f"a {type(output).__name__}"
                    raise TypeError(f"predict joins tensors (N, ...) of the batches; the model gave {what} for one")
                outputs.append(output.cpu())
    if ranks is not None:
        return ranks.in_order(outputs, dl, first)  # type: ignore[no-any-return]
    if not outputs:
        raise ValueError("a loader gives at least one batch; the one given to predict gave none")
    shapes = {tuple(output.shape[1:]) for output in outputs}
    if len(shapes) > 1:
        raise ValueError(
            f"predict joins outputs (N, ...) of one shape; the model gave rows of {' and of '.join(map(str, shapes))}: "
            "predict batch by batch, or pad them to one length"
        )
    return torch.cat(outputs)


def _input_of(learn: LearnerLike, batch: Any) -> Any:
    """x of a batch: ``(x, y)``, x itself, or ``(x,)`` as a dataset of x alone gives it."""
    if isinstance(batch, Tensor):
        return on_device(batch, learn.device)
    if learn.prepare_batch is None:
        if isinstance(batch, (tuple, list)) and len(batch) == 1:
            batch = (*batch, None)
        elif isinstance(batch, dict):
            batch = batch, None
    return learn.prepare_pair(batch)[0]
