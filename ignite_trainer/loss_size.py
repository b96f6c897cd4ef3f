"""How many samples the loss of a batch stands for: its weight in the mean of an epoch, or of a step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .user_warnings import warn_user

__all__ = [
    "FEW",
    "TORCHS_FORWARDS",
    "LossSize",
    "Marked",
    "counted",
    "first_dimension",
    "ignored_label",
    "kind_of",
    "labels_that_count",
    "loss_size_of",
]


class Marked(NamedTuple):
    """Which labels on a device count, not yet counted: those of many batches are counted at once."""

    marks: Tensor  # bool, of no other use to anyone


LossSize = Callable[[Any, Any], "int | Tensor | Marked"]

TORCHS_FORWARDS = (nn.CrossEntropyLoss.forward, nn.NLLLoss.forward)
"""Those of losses over classes; a subclass may have another."""

FEW = 64  # so many numbers on the CPU are looked through faster as a list than as a tensor


def loss_size_of(loss_func: Any) -> LossSize:
    """How many samples a mean loss stands for, by its kind: its weight in the epoch's mean.

    For cross-entropy and NLL over class indices that is the number of labels that are not ``ignore_index``, or the
    sum of their class weights: what the loss itself divides by. For all others it is the first dimension of y, also for
    a subclass with a ``forward`` of its own that does not call torch's. One that does is taken to hand on all labels;
    where it drops some, as a language model's shift does, give ``Learner(loss_size=...)``.

    Returns:
        A function (preds, y) → an int, or on the device of y a 0-d tensor, or ``Marked``.

    Warns:
        UserWarning: the loss is a sum over the batch.
    """
    loss_func, of_classes, options = kind_of(loss_func)
    reduction = options.get("reduction", "mean")
    if reduction == "sum":
        name = getattr(loss_func, "__name__", type(loss_func).__name__)
        warn_user(
            f"a loss is the mean over its batch; {name} adds up, so that steps, the loss that is shown, accumulate and "
            "ranks depend on the size of batches: take reduction='mean', or say with loss_size=... what it stands for"
        )
    if not of_classes or reduction != "mean":
        return first_dimension
    numbers = tensors = {"ignore_index": -100, "weight": None, **options}
    if isinstance(loss_func, nn.Module):  # both may be set later; an attribute that is a buffer takes 0.3 µs
        numbers, tensors = vars(loss_func), loss_func._buffers

    def labels(preds: Any, y: Any) -> int | Tensor | Marked:
        if not isinstance(y, Tensor):  # for a forward of one's own
            return first_dimension(preds, y)
        n: int = y.numel()
        ignore: int = numbers["ignore_index"]
        weight: Tensor | None = tensors["weight"] if "weight" in tensors else loss_func.weight  # noqa: SIM401  slow
        if n <= FEW and y.dtype is torch.int64 and weight is None and y.is_cpu and y.ndim == 1:
            return n - y.tolist().count(ignore)
        if y.dtype.is_floating_point:  # class probabilities: the loss divides by the number of distributions
            return n // y.shape[1] if y.ndim > 1 else 1
        if weight is not None:  # without a choice of rows, for which a device would be waited for
            known = labels_that_count(y, ignore)
            weights: Tensor = weight.to(y.device)[torch.where(known, y, 0).long()]
            return (weights * known).sum()
        if ignore < 0 and n and y.is_cpu and y.min().item() >= 0:  # 1 µs; on a device it would wait
            return n
        known = labels_that_count(y, ignore)
        return known.sum() if y.is_cpu else Marked(known)

    return labels


def counted(n: float | Tensor | Marked) -> float | Tensor:
    """What a ``LossSize`` gives, as a number, in Python or on its device.

    >>> counted(Marked(torch.tensor([True, False, True]))), counted(2)
    (tensor(2), 2)
    """
    return n.marks.sum() if isinstance(n, Marked) else n


def kind_of(loss_func: Any) -> tuple[Any, bool, dict[str, Any]]:
    """The loss that a partial wraps, or itself; whether it is torch's over classes, or calls that; and its options."""
    options: dict[str, Any] = {}
    if isinstance(loss_func, functools.partial):
        loss_func, options = loss_func.func, loss_func.keywords
    if isinstance(loss_func, nn.Module):
        names = ("reduction", "ignore_index", "weight", "label_smoothing")
        forward = type(loss_func).forward
        calls_torchs = "forward" in getattr(getattr(forward, "__code__", None), "co_names", ())  # on another shape, say
        of_classes = isinstance(loss_func, (nn.CrossEntropyLoss, nn.NLLLoss)) and (
            calls_torchs or forward in TORCHS_FORWARDS
        )
        return loss_func, of_classes, {name: getattr(loss_func, name) for name in names if hasattr(loss_func, name)}
    return loss_func, loss_func in (F.cross_entropy, F.nll_loss), options


def labels_that_count(y: Tensor, ignored: int) -> Tensor:
    """Which labels are others than the ignored one; compared as int64, as in uint8 -100 would be 156.

    >>> labels_that_count(torch.tensor([1, 156], dtype=torch.uint8), -100)
    tensor([True, True])
    """
    return y.long() != ignored


def ignored_label(loss_func: Any) -> int | None:
    """The label that a loss over classes leaves out; None for other losses."""
    _, of_classes, options = kind_of(loss_func)
    return options.get("ignore_index", -100) if of_classes else None


def first_dimension(preds: Any, y: Any) -> int:
    """How many samples a batch has: the first dimension of y, or of the first tensor in it that has one.

    A list of dicts has one a sample, as in detection, and so has a list of tensors of several lengths, or of as many as
    there are predictions. Where there is no such thing in y, preds is looked at likewise.

    Raises:
        TypeError: nothing in either tells.

    >>> first_dimension(None, (0.5, torch.zeros(4, 3))), first_dimension(torch.zeros(2, 7), ["a cat", "a dog"])
    (4, 2)
    """
    if isinstance(y, Tensor):
        return y.shape[0] if y.ndim else 1
    n_preds = _length_in(preds, None)
    n = _length_in(y, n_preds)
    n = n_preds if n is None else n
    if n is not None:
        return n
    raise TypeError(
        f"the samples of a batch are counted by a tensor in y or preds; got a {type(y).__name__} and a "
        f"{type(preds).__name__} without one: give Learner(loss_size=lambda preds, y: ...)"
    )


def _length_in(nest: Any, n_preds: int | None) -> int | None:
    if isinstance(nest, Tensor):
        return nest.shape[0] if nest.ndim else None
    if isinstance(nest, (list, tuple)) and nest and isinstance(nest[0], dict):
        return len(nest)
    parts = nest.values() if isinstance(nest, dict) else nest if isinstance(nest, (list, tuple)) else ()
    lengths = [n for n in (_length_in(part, n_preds) for part in parts) if n is not None]
    of_tensors = isinstance(nest, list) and len(lengths) == len(nest) and all(isinstance(part, Tensor) for part in nest)
    if of_tensors and lengths and lengths[0] != n_preds and (len(nest) == n_preds or len(set(lengths)) > 1):
        return len(nest)  # a tensor for each sample, such as its boxes
    return lengths[0] if lengths else None
