"""Whether the weights of a fit are worth keeping: NaN and infinity where there were none at its start."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import get_total_norm

from ..callbacks import Callback
from ..learner_like import LearnerLike

__all__ = ["Soundness", "bad_tensors"]

_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


class Soundness(Callback):
    """Tells which weights have gone bad in a fit; what was so at its start, a mask of -inf, is so by design.

    Brought along by callbacks that keep weights.

    >>> model, soundness = nn.Linear(2, 1), Soundness()
    >>> _ = model.bias.data.fill_(float("nan"))
    >>> soundness.first_bad(model)
    'bias'
    """

    order = 90
    _from_start: list[str] | None = None

    def before_fit(self, learn: LearnerLike) -> None:
        """Begin anew; what a fit goes on from is not in the model yet."""
        self._from_start = None

    def before_epoch(self, learn: LearnerLike) -> None:
        """Note, once a fit, which weights are not finite by design."""
        if self._from_start is None:
            self._from_start = bad_tensors(learn.model)

    def first_bad(self, model: nn.Module) -> str:
        """The first parameter or buffer that has gone bad, by name, else ""; waits for the device."""
        return next((name for name in bad_tensors(model) if name not in (self._from_start or ())), "")


def bad_tensors(model: nn.Module) -> list[str]:
    """The parameters that are not finite, then the buffers that hold NaN (infinity is at home in them), by name."""
    parameters = {name: _numbers(parameter) for name, parameter in model.named_parameters() if _has_numbers(parameter)}
    buffers = {name: _numbers(buffer) for name, buffer in model.named_buffers() if _has_numbers(buffer)}
    if get_total_norm([*parameters.values(), *buffers.values()]).isfinite():  # a twentieth of the time of the next two
        return []
    return [
        *(name for name, parameter in parameters.items() if not parameter.isfinite().all()),
        *(name for name, buffer in buffers.items() if buffer.isnan().any()),
    ]


def _has_numbers(tensor: Tensor) -> bool:
    # of a nested tensor torch 2.13 has no norm
    return not is_lazy(tensor) and not tensor.is_nested and (tensor.is_floating_point() or tensor.is_complex())


def _numbers(tensor: Tensor) -> Tensor:
    """Those that a tensor of any layout holds, in a type that has a norm, which torch 2.13 lacks for 8 bits."""
    tensor = tensor.detach()
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce().values()
    elif tensor.layout in _COMPRESSED:
        tensor = tensor.values()
    elif tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return tensor.float() if tensor.itemsize == 1 else tensor
