"""Averaged weights: an exponential moving average that validates and is kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..arguments import is_number
from ..callbacks import Callback
from ..learner_like import LearnerLike

__all__ = ["EMA"]


class EMA(Callback):
    """Keeps an exponential moving average of the weights, used for validation and left in the model at the end.

    After each optimizer step ``average = decay · average + (1 - decay) · weight``; the first average is the weights
    after the first step. Buffers (batch norm's statistics) are not averaged. The averages are in the model during a
    fit's validation, until the next epoch begins, and after the fit; the trained weights are put back for each epoch of
    training. So what another callback changes in the weights meanwhile, in ``after_validate`` say, is lost: do that in
    ``before_epoch``, with an ``order`` above 20.

    Args:
        decay: between 0 and 1; 0.999 averages over about 1,000 steps.

    Raises:
        ValueError: ``decay`` is not between 0 and 1.

    Source: torch.optim.swa_utils, whose rule is used.

    >>> EMA(0.99).decay
    0.99
    """

    order = 20

    def __init__(self, decay: float = 0.999):
        if not (is_number(decay) and 0 < decay < 1):
            raise ValueError(f"decay is the part of the average that stays, between 0 and 1; got {decay!r}")
        self.decay = decay
        self.other: list[Tensor] = []  # the averages, or the trained weights while the averages are in the model
        self.in_model = False

    def before_fit(self, learn: LearnerLike) -> None:
        """Begin anew."""
        self.other, self.in_model = [], False

    def after_step(self, learn: LearnerLike) -> None:
        """Move the averages towards the weights."""
        weights = _weights(learn.model)
        self._place_beside(weights)
        if not self.other:
            self.other = [weight.clone() for weight in weights]
        else:
            with torch.no_grad():
                get_ema_multi_avg_fn(self.decay)(self.other, weights, None)  # type: ignore[no-untyped-call]

    def before_epoch(self, learn: LearnerLike) -> None:
        """Averages in for the validation of a fit, weights back for training."""
        if learn.engine.training:
            self._swap(learn.model, False)
        elif learn.validating:
            self._swap(learn.model, True)

    def after_validate(self, learn: LearnerLike) -> None:
        """Averages in for what is saved of the epoch, where no validation has put them there."""
        self._swap(learn.model, True)

    def after_fit(self, learn: LearnerLike) -> None:
        """Leave the averages in the model; what is saved of an epoch that was cut goes on with the trained weights."""
        if not learn.in_training_epoch:
            self._swap(learn.model, True)

    def cleanup_fit(self, learn: LearnerLike, error: BaseException | None) -> None:
        """The averages stay in the model, also when a fit was cancelled; after an exception the trained weights are."""
        self._swap(learn.model, error is None)
        self.other, self.in_model = [], False

    def state_dict(self) -> dict[str, Any]:
        """The weights that are not in the model, and which those are."""
        return {"other": self.other, "in_model": self.in_model}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict``; the model has what it had then."""
        self.other, self.in_model = [tensor.clone() for tensor in state["other"]], state["in_model"]

    def _place_beside(self, weights: list[Tensor]) -> None:
        """A state that was loaded lies on the CPU."""
        if self.other and self.other[0].device != weights[0].device:
            self.other = [other.to(weight.device) for other, weight in zip(self.other, weights, strict=True)]

    def _swap(self, model: nn.Module, averages: bool) -> None:
        if self.in_model == averages or not self.other:
            return
        weights = _weights(model)
        self._place_beside(weights)
        for weight, other in zip(weights, self.other, strict=True):
            kept = weight.clone()
            weight.copy_(other)
            other.copy_(kept)
        self.in_model = averages


def _weights(model: nn.Module) -> list[Tensor]:
    """Those that can be trained: the average of a parameter of whole numbers is the parameter."""
    return [weight.detach() for weight in model.parameters() if weight.is_floating_point() or weight.is_complex()]
