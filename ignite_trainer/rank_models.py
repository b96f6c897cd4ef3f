"""The model on several ranks: rank 0's at the start, the same on all of them at each epoch's end."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .collectives import all_objects, on_main, share_tensors
from .loadable import UNKNOWN, shapes_of
from .optim import rates_of
from .user_warnings import warn_user

__all__ = ["check_alike", "share_buffers", "share_model", "sum_of_bits"]

_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_AT_ONCE = 2**22  # torch 2.13 adds up small integers in a copy of 8 bytes each: 32 MB
_WAY_OUT = "change them in after_step or at the ends of epochs, to which every rank comes"


def share_model(model: nn.Module, loss_func: Any) -> None:
    """Rank 0's weights and buffers, for all.

    Raises:
        ValueError: a lazy layer that was not called yet, or an extra state.
    """
    for name, shape in shapes_of(model.state_dict()).items():
        if not isinstance(shape, tuple) or name.endswith("_extra_state"):
            what = "has no shape yet: call the model on a batch first" if shape == UNKNOWN else "is an extra state"
            raise ValueError(f"ranks begin with rank 0's parameters and buffers; {name} {what}")
    for part in (model, loss_func):
        if isinstance(part, nn.Module):
            saved, others = _buffers(part)
            share_tensors([*part.parameters(), *saved.values(), *_of_one_size(others)])


def share_buffers(model: nn.Module) -> None:
    """Rank 0's buffers, such as batch norm's statistics, for all: each rank's are of its own shares.

    Those that are not saved may have another size on each, as a table that grows with the longest sequence.
    """
    share_tensors(_buffers(model)[0].values())


def check_alike(model: nn.Module, optimizer: Any, *, weights: bool) -> bool:
    """Refuse learning rates that are not the same on all ranks, and warn of weights that are not; one exchange.

    Args:
        model: the model; of each parameter the bits are added up, and the sums compared.
        optimizer: the optimizer.
        weights: False: they are not looked at.

    Returns:
        Whether weights differ, the same on all ranks.

    Raises:
        RuntimeError: other rates, as where they are set at a batch of which a rank has no sample.

    Warns:
        UserWarning: other weights; on rank 0.
    """
    mine = rates_of(optimizer), _sums_of_bits(model) if weights else {}
    everybodys_rates, everybodys_sums = zip(*all_objects(mine), strict=True)
    _check_rates(*everybodys_rates)
    return _warn_if_apart(*everybodys_sums)


def sum_of_bits(tensor: Tensor) -> Tensor:
    """What a tensor's memory adds up to as whole numbers, modulo 2**64: a 0-d tensor on its device.

    >>> sum_of_bits(torch.tensor([1.0, 2.0])) == 0x3F800000 + 0x40000000
    tensor(True)
    """
    tensor = tensor.resolve_conj().resolve_neg()
    if tensor.dtype.is_complex:
        tensor = torch.view_as_real(tensor)
    words = tensor.view(_WORDS[tensor.element_size()]).reshape(-1)
    if words.numel() <= _AT_ONCE:
        return words.sum(dtype=torch.int64)
    return torch.stack([part.sum(dtype=torch.int64) for part in torch.split(words, _AT_ONCE)]).sum()


def _check_rates(first: list[float], *others: list[float]) -> None:
    for number, rates in enumerate(others, 1):
        if len(rates) != len(first):
            raise RuntimeError(
                f"all ranks make the same steps; the optimizer of rank {number} has {len(rates)} groups of parameters, "
                f"that of rank 0 {len(first)}: {_WAY_OUT}"
            )
        for group, (rate, of_rank_0) in enumerate(zip(rates, first, strict=True)):
            if not _close(rate, of_rank_0):
                raise RuntimeError(
                    f"all ranks make the same steps; at the end of this epoch the learning rate of group {group} is "
                    f"{rate} on rank {number} and {of_rank_0} on rank 0: {_WAY_OUT}"
                )


def _warn_if_apart(first: dict[str, int], *others: dict[str, int]) -> bool:
    apart = [(number, name) for number, sums in enumerate(others, 1) for name in first if sums.get(name) != first[name]]
    if apart:
        number, name = apart[0]
        text = (
            f"all ranks hold the same weights; at the end of this epoch those of rank {number} differ from rank 0's, "
            f"first in {name}, and rank 0's are what is saved: {_WAY_OUT}, and take processors of one kind"
        )
        on_main(lambda: warn_user(text))  # where warnings are errors, on all ranks
    return bool(apart)


def _close(rate: float, other: float) -> bool:
    # another processor's cos may end in another digit, also where a schedule comes down to 0
    return math.isclose(rate, other, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(rate) and math.isnan(other))


def _sums_of_bits(model: nn.Module) -> dict[str, int]:
    """Of each parameter what no order and no rounding changes; waits for the device once."""
    sums = {name: sum_of_bits(parameter.detach()) for name, parameter in model.named_parameters()}
    device = next((total.device for total in sums.values()), None)
    together = torch.stack([total.to(device) for total in sums.values()]).tolist() if sums else []
    return dict(zip(sums, together, strict=True))


def _buffers(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Those that are saved, and the others, by name."""
    names = module.state_dict().keys()
    saved, others = dict[str, Tensor](), dict[str, Tensor]()
    for name, buffer in module.named_buffers():
        (saved if name in names else others)[name] = buffer
    return saved, others


def _of_one_size(tensors: dict[str, Tensor]) -> list[Tensor]:
    """Those that all ranks have in one shape and type."""
    kinds = all_objects({name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})
    return [tensor for name, tensor in tensors.items() if all(kind.get(name) == kinds[0].get(name) for kind in kinds)]
