"""Whether the weights of a fit are worth keeping: NaN and infinity where there were none at its start."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import get_total_norm

__all__ = ["Soundness", "bad_tensors"]


class Soundness:
    """Tells which weights have gone bad in a fit; what was so at its start, a mask of -inf, is so by design.

    >>> model, soundness = nn.Linear(2, 1), Soundness()
    >>> soundness.begin()
    >>> soundness.note_start(model)
    >>> _ = model.bias.data.fill_(float("nan"))
    >>> soundness.first_bad(model)
    'bias'
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A fit begins, at ``before_fit``: what it goes on from is not in the model yet."""
        self._from_start: list[str] | None = None

    def note_start(self, model: nn.Module) -> None:
        """An epoch begins: the fit's first is its start."""
        if self._from_start is None:
            self._from_start = bad_tensors(model)

    def first_bad(self, model: nn.Module) -> str:
        """The first parameter or buffer that has gone bad, by name, else ""; waits for the device."""
        return next((name for name in bad_tensors(model) if name not in (self._from_start or ())), "")


def bad_tensors(model: nn.Module) -> list[str]:
    """The parameters that are not finite, then the buffers that hold NaN (infinity is at home in them), by name."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters() if _has_numbers(parameter)}
    buffers = {name: buffer.detach() for name, buffer in model.named_buffers() if _has_numbers(buffer)}
    if get_total_norm([*parameters.values(), *buffers.values()]).isfinite():  # a twentieth of the time of the next two
        return []
    return [
        *(name for name, parameter in parameters.items() if not parameter.isfinite().all()),
        *(name for name, buffer in buffers.items() if buffer.isnan().any()),
    ]


def _has_numbers(tensor: Tensor) -> bool:
    return not is_lazy(tensor) and (tensor.is_floating_point() or tensor.is_complex())
