"""The check of a whole job: its steps and data looked at, its rate and one batch tried, all on trial."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from ..arguments import is_whole
from ..callbacks import Callback, has_point
from ..data import TensorLoader
from ..epochs import batches_of, rereadable
from ..learner import Learner
from ..lr_finder import LRFinder
from ..overfit_batch import OverfitBatch
from ..trial import check_learner, own_callbacks, trial
from .data import Reading, in_both
from .findings import Finding, Inspection, listed
from .losses import ClassLoss, class_loss
from .steps import Steps, counts

__all__ = ["check"]

_N_STEPS = 20
_N_VALID = 5
_FAR = 10.0  # times the rate that the finder would choose, and a tenth of it


def check(learn: Learner, *, n_batches: int = 2000) -> Inspection:
    """Look for mistakes in a job before a long run: what is certainly wrong, what may be, and seconds per batch.

    Some steps are trained, the data is read once, the learning-rate finder runs, and one batch is overfitted; then
    everything is put back as it was, also after an exception. Checks that do not apply to the loss are left out:
    labels, softmax and the loss at the start are checked for cross-entropy and NLL only. Your own callbacks take part
    as copies; this package's callbacks and native handlers take no part.

    Facts: labels outside the outputs; NaN in the data, unless the job's loss on it is finite; the same image in
    training and validation (bit for bit, as the loaders give it, or before the transform if each is a
    ``TensorLoader``; images of a single colour do not count); a parameter that gets no gradient and is not frozen;
    softmax before cross-entropy, or NLL without log-softmax; a model, or a part of it with trainable parameters other
    than those of norms, left in eval mode.

    Hints, each with what led to it: a parameter that the optimizer does not have; the loss at the start far from
    ln(classes); unscaled inputs; constant labels; one batch that cannot be overfitted; a learning rate far from what
    the finder would choose.

    Args:
        learn: a learner that is not in a fit.
        n_batches: how many batches of each loader are read at most; of each sample's image 16 bytes are kept.

    Raises:
        ValueError: ``n_batches`` < 1; what ``fit`` raises of this job, which then cannot train at all.
        TypeError: a loader that can be read only once; likewise.
        RuntimeError: a fit is running.

    >>> import torch
    >>> from torch import nn
    >>> batches = [(torch.randn(8, 4), torch.tensor([1, 2, 3] * 2 + [1, 2]))] * 4
    >>> learn = Learner(nn.Linear(4, 3), (batches, None), nn.CrossEntropyLoss(), lr=0.1, device="cpu")
    >>> print(check(learn).facts[0].text)
    labels are class numbers from 0 to 2 for a model of 3 outputs; got 3 in the training data (samples 2, 5, 10, 13, 18
    and 3 more in the loader's order): number the classes from 0, or give the model more outputs
    """
    check_learner(learn, "check")
    if not is_whole(n_batches) or n_batches < 1:
        raise ValueError(f"n_batches is how many batches are read, at least 1; got {n_batches!r}")
    cbs, refused = own_callbacks(learn)
    in_place = not learn.has_own_step
    loss = class_loss(learn.loss_func) if in_place else None
    steps = Steps(_N_STEPS, loss)
    train_dl, valid_dl = _First(learn.train_dl, _N_STEPS), None
    if learn.validates:
        valid_dl = _First(learn.valid_dl, _N_VALID)
    with trial(learn, train_dl, valid_dl, cbs=[*cbs, steps]) as twin:
        with steps.watching(twin):
            twin.fit(1)
        readings = _readings(learn, twin, cbs, steps, loss, n_batches)
        forgotten = [] if learn.has_own_step else _outside_the_optimizer(twin)
    findings = [finding for reading in readings for finding in reading.findings()]
    found = {finding.kind for finding in findings}
    findings += [finding for finding in steps.findings() if finding.kind not in found]  # the data names all samples
    if len(readings) > 1:
        findings += in_both(*readings)
    if forgotten:
        text = (
            f"an optimizer moves what it was given; {listed(forgotten)} require a gradient and are in none of its "
            "groups: give it model.parameters(), or freeze them with requires_grad_(False)"
        )
        findings.append(Finding("outside the optimizer", text, False))
    if loss is not None:
        findings += _loss_at_start(steps, loss)
    if in_place and not steps.broken and not {"nan", "labels outside the outputs"} & {f.kind for f in findings}:
        findings += _tried(learn, steps, loss)
    inspection = Inspection(sorted(findings, key=lambda finding: not finding.is_fact))
    inspection.data_seconds, inspection.compute_seconds = steps.seconds() or (None, None)
    inspection.looked_at = [
        *_looked_at(steps, readings),
        *(f"{name} took no part: no copy can be made" for name in refused),
    ]
    return inspection


def _outside_the_optimizer(learn: Learner) -> list[str]:
    """The names of the parameters that are to be trained and that the optimizer does not have."""
    groups = getattr(learn.opt, "param_groups", None)
    if groups is None:
        return []
    there = {id(parameter) for group in groups for parameter in group["params"]}
    return [name for name, p in learn.model.named_parameters() if p.requires_grad and id(p) not in there]


class _First:
    """The first batches of a loader."""

    def __init__(self, loader: Any, n_batches: int):
        self.loader, self.n_batches = rereadable(loader), n_batches

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(batches_of(self.loader), self.n_batches)


class _Last(Callback):
    """Notes the targets of the last batch, as callbacks have left them, and whether any of them counts."""

    def __init__(self) -> None:
        self.y: Any = None
        self.counts = True

    def after_batch(self, learn: Learner) -> None:
        self.y, self.counts = learn.batch[1], counts(learn)


def _readings(
    learn: Learner, twin: Learner, cbs: list[Any], steps: Steps, loss: ClassLoss | None, n_batches: int
) -> list[Reading]:
    """Both loaders, read."""
    as_given = not any(has_point(cb, point) for cb in cbs for point in ("before_batch", "after_predict"))

    def handles_nan(batch: Any) -> bool:
        try:
            return not learn.has_own_step and math.isfinite(twin.evaluate([batch])["loss"])
        except Exception:  # whatever a loss raises of NaN, which it then does not handle
            return False

    loaders = {"training": learn.train_dl} | ({"validation": learn.valid_dl} if learn.validates else {})
    return [
        Reading(
            loader,
            phase,
            twin.prepare_pair,
            n_batches,
            handles_nan=handles_nan,
            loss=loss,
            n_classes=steps.n_classes if as_given else None,
            in_memory=all(isinstance(other, TensorLoader) for other in loaders.values()),
        )
        for phase, loader in loaders.items()
    ]


def _loss_at_start(steps: Steps, loss: ClassLoss) -> Iterator[Finding]:
    if steps.first_loss is None or steps.n_classes is None or steps.n_classes < 2 or not loss.is_mean:
        return
    expected = math.log(steps.n_classes)
    if not 0.5 * expected < steps.first_loss < 1.5 * expected:
        reason = (
            "below that it knows the labels already, as a trained model does"
            if steps.first_loss < expected
            else "above that the scores are too large: look at the scale of the inputs and of the last layer"
        )
        yield Finding(
            "loss at the start",
            f"a new model's loss is about ln({steps.n_classes}) = {expected:.3g}; the first batch has "
            f"{steps.first_loss:.3g}: {reason}",
            False,
        )


def _tried(learn: Learner, steps: Steps, loss: ClassLoss | None) -> Iterator[Finding]:
    """What the finder and overfitting hint at."""
    suggestion = None
    if steps.lr is not None:
        suggestion = LRFinder(learn, cbs=_without_validation(learn)).run().suggestion
    left = _overfit(learn, steps, loss, None)
    if left is not None and suggestion is not None:
        left = _overfit(learn, steps, loss, suggestion)
    if left is not None:
        yield Finding("cannot be overfitted", left, False)
    if suggestion is not None and steps.lr is not None and not suggestion / _FAR <= steps.lr <= suggestion * _FAR:
        yield Finding(
            "lr",
            f"lr is {steps.lr:.2g}; the finder sees the loss fall fastest at {suggestion:.2g}: try that, and look at "
            "LRFinder(learn).run().plot()",
            False,
        )


def _without_validation(learn: Learner) -> list[Any]:
    """Copies of the user's callbacks for a trial that has no validation, whose values some read after it."""
    cbs = own_callbacks(learn)[0]
    for cb in cbs:
        if has_point(cb, "after_validate"):
            cb.after_validate = None
    return cbs


def _overfit(learn: Learner, steps: Steps, loss: ClassLoss | None, lr: float | None) -> str | None:
    """What to say if one batch cannot be learnt; None if it can."""
    last = _Last()
    seen = OverfitBatch(learn, lr=lr, cbs=[*_without_validation(learn), last]).run()
    if not last.counts:
        return None
    if loss is not None and steps.n_classes is not None:
        lowest = loss.lowest(steps.n_classes, last.y)
        fell = seen.last - lowest <= 0.5 * (seen.first - lowest)
    else:
        fell = seen.last <= 0.9 * seen.first if seen.first > 0 else seen.last < seen.first  # what is lowest is unknown
    if fell:
        return None
    lr = steps.lr if lr is None else lr
    with_lr = "" if lr is None else f" with lr {lr:.2g}"
    return (
        "one batch alone, trained on again and again, is learnt by heart; this one was not, its loss went from "
        f"{seen.first:.3g} to {seen.last:.3g} in {len(seen.losses)} steps{with_lr}: look at whether inputs, labels and "
        "loss belong together, and whether the model is large enough"
    )


def _looked_at(steps: Steps, readings: list[Reading]) -> Iterator[str]:
    samples = [f"{reading.n_samples} {reading.phase} samples" for reading in readings]
    yield f"looked at: {', '.join([f'{steps.n_trained} training steps', *samples])}"
    for reading in readings:
        if not reading.whole:
            yield f"of the {reading.phase} data only the first {reading.n_batches} batches were read"
