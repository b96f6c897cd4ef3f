"""What some training steps and some batches of validation show: gradients, modes, scores, the loss, seconds."""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..callbacks import Callback
from ..events import CancelFitException
from ..learner import Learner
from ..loss_size import counted, labels_that_count
from ..optim import rates_of
from .findings import Finding, listed
from .losses import ClassLoss

__all__ = ["Steps", "counts"]

_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


class Steps(Callback):
    """Watches the steps of a fit that is on trial; the modes of modules in the first half, the seconds in the other.

    Args:
        n_steps: batches of training that are watched, at most.
        loss: what is known of the loss; None: it is not over classes, or the step is one's own.

    Attributes:
        n_classes: outputs of the model, where the loss is over classes.
        first_loss: of the first batch that has a label which counts.
        lr: of the first parameter group; None where there is none.
        broken: no backward could be made.
    """

    order = -1000
    _learn: Learner  # that is watched

    def __init__(self, n_steps: int, loss: ClassLoss | None):
        self.n_watched, self.loss = n_steps // 2, loss
        self.n_classes: int | None = None
        self.first_loss: float | None = None
        self.lr: float | None = None
        self.broken = False
        self.n_trained = 0
        self._bad_labels = ""
        self._reached: set[str] = set()
        self._trainable: list[str] = []
        self._frozen: set[str] = set()  # by a callback
        self._modes: dict[str, set[bool]] = defaultdict(set)
        self._affected: list[str] = []
        self._wrong_form: dict[str, bool] = {}  # by phase: whether all outputs look like what another loss takes
        self._times: list[tuple[float, float, float]] = []
        self._batch_over = time.perf_counter()
        self._hooks = ExitStack()

    @contextmanager
    def watching(self, learn: Learner) -> Iterator[None]:
        """In here the learner's model has hooks."""
        self._learn, model = learn, learn.model
        with self._hooks:
            for name, module in model.named_modules():
                if isinstance(module, torch.jit.ScriptModule):  # it takes no hooks
                    continue
                hook = module.register_forward_pre_hook(partial(self._see_mode, name))
                self._hooks.callback(hook.remove)
                if _trainable_beside_norms(module):
                    self._affected.append(name)
            with ExitStack() as stack:  # these cost little, and stay for all steps
                for name, parameter in model.named_parameters():
                    if parameter.requires_grad:
                        self._trainable.append(name)
                        hook = parameter.register_hook(lambda grad, name=name: self._reached.add(name))  # type: ignore[no-untyped-call]
                        stack.callback(hook.remove)
                if not isinstance(model, torch.jit.ScriptModule):
                    hook = model.register_forward_hook(lambda module, args, output: self._see_scores(output))
                    stack.callback(hook.remove)
                yield

    # ---- as a callback -------------------------------------------------------------------------------------------

    def before_fit(self, learn: Learner) -> None:
        lr = next(iter(rates_of(learn.opt)), math.nan)
        self.lr = None if math.isnan(lr) else lr

    def before_batch(self, learn: Learner) -> None:
        self._began = time.perf_counter()

    def after_loss(self, learn: Learner) -> None:
        if learn.engine.training and not learn.loss.requires_grad:
            self.broken = True
            raise CancelFitException

    def after_batch(self, learn: Learner) -> None:
        if not learn.engine.training:
            return
        if learn.device.type == "cuda":
            torch.cuda.synchronize(learn.device)  # waits for the device: that is what is measured
        now = time.perf_counter()
        self._times.append((self._batch_over, self._began, now))
        self._batch_over = now
        if self.first_loss is None and isinstance(learn.loss, Tensor) and counts(learn):
            self.first_loss = float(learn.loss.detach())
        self.n_trained += 1
        self._frozen.update(name for name, parameter in learn.model.named_parameters() if not parameter.requires_grad)
        if self.n_trained == self.n_watched:
            self._hooks.close()
            self._batch_over = time.perf_counter()

    # ---- what was seen -------------------------------------------------------------------------------------------

    def seconds(self) -> tuple[float, float] | None:
        """For one batch: waiting for the loader, and the rest; medians, of steps without hooks if there are some."""
        times = self._times[self.n_watched :] or self._times[1:]
        if not times:
            return None
        return (
            statistics.median(began - over for over, began, _ in times),
            statistics.median(end - began for _, began, end in times),
        )

    def findings(self) -> Iterator[Finding]:
        """The facts."""
        if self._bad_labels:
            yield Finding("labels outside the outputs", self._bad_labels, True)
        if self.broken and not self._trainable:
            yield Finding(
                "no gradient",
                "a training step moves parameters that have requires_grad; the model has none: thaw those that are to "
                "be trained, with requires_grad_()",
                True,
            )
        without = [name for name in self._trainable if name not in self._reached | self._frozen]
        if without and (self.broken or self._reached):
            steps = "any step" if self.broken else f"{self.n_trained} steps"
            yield Finding(
                "no gradient",
                f"parameters that are trained get a gradient; {listed(without)} got none in {steps}: use them in what "
                "the loss depends on (no detach, no argmax before it), or freeze them with requires_grad_(False)",
                True,
            )
        phases = [phase for phase, always in self._wrong_form.items() if always]
        if phases and self.loss is not None and self.loss.from_logits:
            yield Finding(
                "softmax",
                f"cross-entropy takes scores and makes probabilities of them itself; in {' and '.join(phases)} every "
                f"row of the {self.n_classes} outputs adds to 1 already: leave out the softmax at the model's end",
                True,
            )
        elif phases:
            yield Finding(
                "log-softmax",
                f"NLL takes log-probabilities; in {' and '.join(phases)} no row of the {self.n_classes} outputs is: "
                "end the model with a log_softmax, or take cross-entropy",
                True,
            )
        yield from self._left_in_eval()

    def _left_in_eval(self) -> Iterator[Finding]:
        left = [name for name in self._affected if self._modes.get(name) == {False}]
        outermost = [name for name in left if not any(_holds(other, name) for other in left)]
        if outermost:
            names = ["the model itself" if name == "" else name for name in outermost]
            yield Finding(
                "eval mode",
                f"a training step runs in training mode; {listed(names)} ran in eval mode: look for eval() in forward "
                "or a callback, or a train() of the model's own",
                True,
            )

    def _see_mode(self, name: str, module: nn.Module, args: Any) -> None:
        if self._learn.engine.training and torch.is_grad_enabled():
            self._modes[name].add(module.training)

    def _see_scores(self, output: Any) -> None:
        """Labels and scores, before the loss fails on them."""
        loss, engine, batch = self.loss, self._learn.engine, self._learn.batch
        if loss is None or not isinstance(output, Tensor) or output.ndim < 2 or not output.is_floating_point():
            return
        y, self.n_classes = batch[1] if isinstance(batch, (tuple, list)) else None, output.shape[1]
        if not isinstance(y, Tensor) or not engine.running:
            return
        watched = not engine.training or self.n_trained < self.n_watched
        if watched and (self.n_classes > 1 or not loss.from_logits):
            looks_wrong = _are_probabilities if loss.from_logits else _are_scores
            self._wrong_form[engine.phase] = self._wrong_form.get(engine.phase, True) and looks_wrong(output.detach())
        bad = outside(y, loss, self.n_classes)
        if bad is not None and bad.any():
            rows = dict.fromkeys(bad.nonzero()[:, 0].tolist())
            where = f"batch {engine.place} of {engine.phase} (rows {listed([str(row) for row in rows])})"
            self._bad_labels = labels_text(self.n_classes, sorted(set(y[bad].tolist())), where)
            raise CancelFitException


def counts(learn: Learner) -> bool:
    """Whether the loss of the batch stands for any sample: not where all its labels are ignored."""
    return bool(counted(learn.train_loss.size(learn.preds, learn.batch[1])) > 0)


def outside(y: Tensor, loss: ClassLoss, n_classes: int) -> Tensor | None:
    """Which of the labels have no output, as booleans; None where y is no class numbers."""
    if y.is_floating_point():
        return None
    return ((y < 0) | (y >= n_classes)) & labels_that_count(y, loss.ignore_index)


def labels_text(n_classes: int, values: list[int], where: str) -> str:
    """What is said of labels without an output."""
    return (
        f"labels are class numbers from 0 to {n_classes - 1} for a model of {n_classes} outputs; got "
        f"{listed([str(value) for value in values])} in {where}: number the classes from 0, or give the model more "
        "outputs"
    )


def _are_probabilities(output: Tensor) -> bool:
    tolerance = 1e-2 if output.element_size() < 4 else 1e-4  # of a sum of rounded numbers
    output = output.float()
    in_range = output.min() >= 0 and output.max() <= 1 + tolerance
    return bool(in_range and ((output.sum(1) - 1).abs() < tolerance).all())


def _are_scores(output: Tensor) -> bool:
    """Whether no row is of log-probabilities, whose exponentials add to 1."""
    return bool((output.float().logsumexp(1).abs() > 0.1).all())


def _trainable_beside_norms(module: nn.Module) -> bool:
    """Whether a module has parameters that are trained, other than those of norms, which many leave as they were."""
    return any(
        parameter.requires_grad
        for part in module.modules()
        if not isinstance(part, _NORMS)
        for parameter in part.parameters(recurse=False)
    )


def _holds(outer: str, name: str) -> bool:
    return outer != name and (outer == "" or name.startswith(f"{outer}."))
