"""What the dashboard shows of a validation: confusion matrix, precision and recall, the worst predictions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..collectives import all_objects

__all__ = ["ValidationRecord", "WorstPrediction", "as_scores", "is_images"]

MAX_CLASSES = 20
THRESHOLDS = 127  # as many as a PR curve of TensorBoard may have
HELD_BYTES = 4 << 20


class WorstPrediction(NamedTuple):
    """One of the validation samples with the greatest loss or error.

    Args:
        sample: its place in the validation, from 0.
        target: its class, or its value.
        predicted: the class with the highest score, or the value.
        score: the probability given to the right class, or the absolute error.
        image: the input as the model got it, on the CPU; None where it is no image.
    """

    sample: int
    target: float
    predicted: float
    score: float
    image: Tensor | None


class ValidationRecord:
    """Counts and the worst samples of one validation, gathered from its own batches in bounded memory.

    Batches are held until they come to 4 MiB and then counted together, on their device; that costs a tenth of
    counting each. With several ranks the counts are summed, and the worst samples are those of all.

    Args:
        loss_func: tells probabilities of two classes, for ``BCEWithLogitsLoss``, from values.
        images: keep the images of the worst samples.
        pr_curves: count for precision and recall.
        n_worst: how many of the worst samples are kept.

    Attributes:
        confusion: (classes, classes) int64, [target, predicted]; None for values, or more than 20 classes.
        scored, positives: (classes, 127) int64, how many samples, and samples of that class, got which probability.
        of_classes: whether the targets are classes, and not values.
        finished: whether the validation ran to its end.

    >>> record = ValidationRecord(nn.CrossEntropyLoss())
    >>> record.update(torch.zeros(3, 2), torch.tensor([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]]), torch.tensor([0, 1, 1]))
    >>> record.finish()
    >>> record.confusion.tolist(), record.worst()[0][:3]
    ([[1, 0], [1, 1]], (2, 1, 0))
    """

    def __init__(self, loss_func: Any = None, *, images: bool = True, pr_curves: bool = True, n_worst: int = 16):
        self._loss_func, self.images, self._pr_curves, self._n_worst = loss_func, images, pr_curves, n_worst
        self.confusion: Tensor | None = None
        self.scored: Tensor | None = None
        self.positives: Tensor | None = None
        self._held: list[tuple[Tensor, ...]] = []
        self._held_bytes = self._n_seen = 0
        self._worst: list[Tensor] = []
        self.of_classes = self.finished = False

    def update(self, x: Any, preds: Any, y: Any) -> None:
        """Take a batch in; one of neither class scores nor values is passed by."""
        pair = as_scores(preds, y, self._loss_func)
        if pair is None:
            return
        preds, y = pair
        # loaders may fill the same memory again
        batch = (preds, y.clone(), x.clone()) if self.images and is_images(x, len(y)) else (preds, y.clone())
        if self._held and [part.shape[1:] for part in batch] != [part.shape[1:] for part in self._held[0]]:
            self._count_held()
        self._held.append(batch)
        self._held_bytes += sum(part.numel() * part.element_size() for part in batch)
        if self._held_bytes >= HELD_BYTES:
            self._count_held()

    def finish(self, places: Tensor | None = None) -> None:
        """Count what is held, add the ranks up. Call it once, on every rank, when the validation is over.

        Args:
            places: where this rank's samples stand in the validation; None: they are all samples, in order.
        """
        self._count_held()
        self.finished = True
        if places is None:
            return
        if self._worst:
            self._worst = [column.cpu() for column in self._worst]
            self._worst[1] = places[self._worst[1]]
        everybodys = all_objects((self.of_classes, self.confusion, self.scored, self.positives, self._worst))
        flags, *counts, worsts = zip(*everybodys, strict=True)
        self.of_classes = any(flags)
        self.confusion, self.scored, self.positives = (_sum_of_those_there(parts) for parts in counts)
        self._merge_worst([worst for worst in worsts if worst])

    def worst(self) -> list[WorstPrediction]:
        """The worst samples, the worst first. Waits for the device."""
        if not self._worst:
            return []
        _, sample, target, predicted, score, *images = (column.cpu() for column in self._worst)
        rows = zip(sample.tolist(), target.tolist(), predicted.tolist(), score.tolist(), strict=True)
        return [WorstPrediction(*row, images[0][i] if images else None) for i, row in enumerate(rows)]

    def curve(self, label: int) -> tuple[Tensor, ...]:
        """Of a class: true and false positives, true and false negatives, precision and recall at 127 thresholds."""
        if self.scored is None or self.positives is None:
            raise ValueError("precision and recall are counted for 2 to 20 classes; this validation has no such counts")
        positive = self.positives[label].flip(0).cumsum(0).flip(0)
        chosen = self.scored[label].flip(0).cumsum(0).flip(0)
        n_samples, n_positive = chosen[0], positive[0]
        false_positive, false_negative = chosen - positive, n_positive - positive
        precision, recall = positive / chosen.clamp(min=1), positive / n_positive.clamp(min=1)
        return positive, false_positive, n_samples - chosen - false_negative, false_negative, precision, recall

    def _count_held(self) -> None:
        if not self._held:
            return
        preds, y = (torch.cat([batch[part] for batch in self._held]) for part in (0, 1))
        images = [batch[2] for batch in self._held if len(batch) > 2]
        self._held, self._held_bytes = [], 0
        n_held, place = len(y), torch.arange(len(y), device=y.device)
        self.of_classes = not y.is_floating_point()
        if self.of_classes:
            there = (y >= 0) & (y < preds.shape[1])  # an ignored label has no class; waits for the device
            preds, y, place = preds[there], y[there], place[there]
            log_probs = F.log_softmax(preds.float(), dim=1)
            self._count_classes(log_probs.exp().nan_to_num(), y)
            right = log_probs.gather(1, y[:, None])[:, 0]
            self._keep_worst(-right, place, (y, log_probs.argmax(1), right.exp()), images)
        else:
            values = (preds - y).abs(), y, preds
            errors, target, predicted = (each.flatten(1).mean(1) if y.ndim > 1 else each for each in values)
            self._keep_worst(errors, place, (target, predicted, errors), images)
        self._n_seen += n_held

    def _count_classes(self, probs: Tensor, y: Tensor) -> None:
        n_classes = probs.shape[1]
        if n_classes > MAX_CLASSES:
            return
        counts = torch.bincount(y * n_classes + probs.argmax(1), minlength=n_classes**2).view(n_classes, n_classes)
        self.confusion = counts if self.confusion is None else self.confusion + counts
        if not self._pr_curves:
            return
        places = (probs * (THRESHOLDS - 1)).long() + torch.arange(n_classes, device=y.device) * THRESHOLDS
        shape, size = (n_classes, THRESHOLDS), n_classes * THRESHOLDS
        scored = torch.bincount(places.flatten(), minlength=size).view(shape)
        positives = torch.bincount(places.gather(1, y[:, None])[:, 0], minlength=size).view(shape)
        self.scored = scored if self.scored is None else self.scored + scored
        self.positives = positives if self.positives is None else self.positives + positives

    def _keep_worst(self, badness: Tensor, place: Tensor, told: tuple[Tensor, ...], images: list[Tensor]) -> None:
        """Of the batches that were held and the worst so far keep the worst; ``place`` is that among those held."""
        chosen = badness.topk(min(self._n_worst, len(badness))).indices
        columns = [column[chosen] for column in (badness, place + self._n_seen, *told)]
        if images:
            columns.append(_picked(images, place[chosen].tolist()))
        self._merge_worst([self._worst, columns] if self._worst else [columns])

    def _merge_worst(self, found: list[list[Tensor]]) -> None:
        """The worst of several."""
        if not found:
            return
        if any([part.shape[1:] for part in columns] != [part.shape[1:] for part in found[0]] for columns in found):
            found = [columns[:5] for columns in found]  # images of several sizes: none is shown
        columns = [torch.cat(parts) for parts in zip(*found, strict=True)] if len(found) > 1 else found[0]
        chosen = columns[0].topk(min(self._n_worst, len(columns[0]))).indices
        self._worst = [column[chosen] for column in columns]


def _sum_of_those_there(parts: Iterable[Tensor | None]) -> Tensor | None:
    there = [part.cpu() for part in parts if part is not None]
    return torch.stack(there).sum(0) if there else None


def _picked(batches: list[Tensor], places: list[int]) -> Tensor:
    """The samples at these places of the batches behind each other, copied alone."""
    firsts = [0, *accumulate(len(batch) for batch in batches)]
    picked = [(bisect_right(firsts, place) - 1, place) for place in places]
    rows = [batches[number][place - firsts[number]] for number, place in picked]
    return torch.stack(rows) if rows else batches[0][:0]


def as_scores(preds: Any, y: Any, loss_func: Any = None) -> tuple[Tensor, Tensor] | None:
    """Class scores (N, classes) and class numbers (N,), or two equal shapes of values (N, …); None for others.

    One logit for ``BCEWithLogitsLoss`` is taken as the scores of two classes.
    """
    if not (isinstance(preds, Tensor) and isinstance(y, Tensor) and preds.is_floating_point() and preds.ndim):
        return None
    preds, y = preds.detach(), y.detach()
    if isinstance(loss_func, nn.BCEWithLogitsLoss):
        if preds.shape != y.shape or preds.numel() != len(preds):
            return None
        logits = preds.reshape(-1, 1)
        return torch.cat([torch.zeros_like(logits), logits], dim=1), y.reshape(-1).round().long()
    if preds.ndim == 2 and preds.shape[1] > 1 and y.shape == preds.shape[:1] and y.dtype in (torch.int64, torch.int32):
        return preds, y.long()
    if preds.shape == y.shape and y.is_floating_point() and not isinstance(loss_func, (nn.BCELoss, nn.NLLLoss)):
        return preds, y
    return None


def is_images(x: Any, n: int) -> bool:
    """Whether x is n grey or colour images: (n, H, W), (n, 1, H, W) or (n, 3, H, W), at least 4 pixels a side."""
    if not isinstance(x, Tensor) or x.is_nested or x.layout is not torch.strided:
        return False
    if x.ndim < 3 or len(x) != n or min(x.shape[-2:]) < 4:
        return False
    return x.ndim == 3 or (x.ndim == 4 and x.shape[1] in (1, 3))
