"""The step: what happens to one batch, in training and in evaluation, in the order in which it happens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .events import TrainEvents
from .gradients import GradientWindow
from .nests import map_leaves
from .user_warnings import warn_user

__all__ = [
    "EvalStep",
    "Loop",
    "LoopLike",
    "Prepare",
    "Step",
    "TrainStep",
    "as_pair",
    "autocast_for",
    "on_device",
    "own_step",
    "preparation",
]

Step = Callable[[Any], Any]
Prepare = Callable[[Any], "tuple[Any, Any]"]

_PREDICTED, _LOSS_COMPUTED = TrainEvents.PREDICTED, TrainEvents.LOSS_COMPUTED
_BACKWARD_COMPLETED, _STEPPED = TrainEvents.BACKWARD_COMPLETED, TrainEvents.STEPPED


class LoopLike(Protocol):
    """What a step works on; the learner is one."""

    model: Any
    forward: Any  # the model, or what wraps it
    loss_func: Any
    opt: Any
    engine: Any
    batch: Any
    preds: Any
    loss: Any
    step: int


class Loop:
    """What a step works on where there is no learner: the parts of a hand-written loop, by their usual names."""

    def __init__(self, model: nn.Module, loss_func: Any, opt: Any = None):
        self.model, self.forward, self.loss_func, self.opt = model, model, loss_func, opt
        self.engine: Any = None
        self.preds: Any = None
        self.loss: Any = None
        self.step = 0

    @property
    def batch(self) -> Any:
        """The engine's ``state.batch``."""
        return self.engine.state.batch

    @batch.setter
    def batch(self, batch: Any) -> None:
        self.engine.state.batch = batch

    @property
    def epoch(self) -> int:
        """The epoch that is running, from 0."""
        return int(self.engine.state.epoch) - 1


class TrainStep:
    """One batch of training: predict, loss, backward, step, zero_grad.

    Between them the events of ``TrainEvents`` are announced, to whoever listens. Callbacks may assign ``learn.batch``,
    ``learn.preds`` and ``learn.loss``; the step goes on with what is assigned.

    A step of your own, ``Learner(step=...)``, is any callable that takes the learner and works on ``learn.batch``,
    ``(x, y)`` on the model's device: it sets ``learn.preds`` and ``learn.loss``, and returns what becomes
    ``state.output``.

    Args:
        prepare: a batch of the loader → ``(x, y)`` on the model's device.
        autocast: the context of model and loss; None: none.
        window: accumulation, scaling and clipping between backward and step; None: none of them.

    >>> import torch
    >>> from ignite_trainer import create_trainer
    >>> model = torch.nn.Linear(2, 1)
    >>> trainer = create_trainer(model, torch.optim.SGD(model.parameters(), 0.1), torch.nn.MSELoss(), device="cpu")
    >>> state = trainer.run([(torch.ones(4, 2), torch.ones(4, 1))], max_epochs=2)
    >>> state.iteration, state.output.shape
    (2, torch.Size([]))
    """

    def __init__(self, prepare: Prepare, autocast: Any = None, window: GradientWindow | None = None):
        self.prepare, self.autocast, self.window = prepare, autocast or nullcontext(), window

    def __call__(self, loop: LoopLike) -> Tensor:
        """Train on ``loop.batch``.

        Returns:
            The batch's loss, detached, a 0-d tensor on its device.
        """
        engine, state, window = loop.engine, loop.engine.state, self.window
        state.batch = batch = self.prepare(state.batch)
        with self.autocast:
            loop.preds = loop.forward(batch[0])
            if engine.predicted:
                engine.announce(_PREDICTED)
                batch = state.batch
            loop.loss = loop.loss_func(loop.preds, batch[1])
        if engine.loss_computed:
            engine.announce(_LOSS_COMPUTED)
        loss = loop.loss if window is None else window.loss_for_backward(loop)
        loss.backward()
        if engine.backward_completed:
            engine.announce(_BACKWARD_COMPLETED)
        if window is None:
            loop.opt.step()
        elif not window.step(loop):
            return loop.loss.detach()  # type: ignore[no-any-return]
        loop.step += 1
        if engine.stepped:
            engine.announce(_STEPPED)
        loop.opt.zero_grad()
        return loop.loss.detach()  # type: ignore[no-any-return]


class EvalStep:
    """One batch of evaluation: predict and loss. The evaluator runs it without gradients, the model in eval mode.

    Args:
        prepare: a batch of the loader → ``(x, y)`` on the model's device.
        autocast: the context of model and loss; None: none.

    >>> from ignite_trainer import CancellableEngine
    >>> loop = Loop(nn.Identity(), nn.MSELoss())
    >>> loop.engine = CancellableEngine(EvalStep(as_pair), loop, training=False)
    >>> preds, y = loop.engine.run([(torch.zeros(4, 1), torch.ones(4, 1))]).output
    >>> loop.loss
    tensor(1.)
    """

    def __init__(self, prepare: Prepare, autocast: Any = None):
        self.prepare = prepare
        self._compute = _preds_and_loss if autocast is None else autocast(_preds_and_loss)

    def __call__(self, loop: LoopLike) -> tuple[Any, Any]:
        """Evaluate ``loop.batch``.

        Returns:
            ``(preds, y)``, as Ignite's metrics take it.
        """
        engine, state = loop.engine, loop.engine.state
        state.batch = self.prepare(state.batch)
        y = self._compute(loop, engine, state)
        if engine.loss_computed:
            engine.announce(_LOSS_COMPUTED)
        return loop.preds, y


def _preds_and_loss(loop: LoopLike, engine: Any, state: Any) -> Any:
    """The part of evaluation that autocast is around; a function of its own, as an empty context costs more."""
    loop.preds = loop.forward(state.batch[0])
    if engine.predicted:
        engine.announce(_PREDICTED)
    y = state.batch[1]
    loop.loss = loop.loss_func(loop.preds, y)
    return y


def own_step(step: Step, prepare: Prepare, autocast: Any, window: GradientWindow | None) -> Step:
    """A step of one's own as the trainer runs it: each batch that it is not cancelled in is one optimizer step.

    Args:
        step: called with the learner; a ``TrainStep`` prepares its batches and counts itself.
        prepare: a batch of the loader → ``(x, y)`` on the model's device.
        autocast: what ``TrainStep`` would use, and it does not; warned of where it is not None.
        window: likewise.

    Warns:
        UserWarning: an option has no effect.
    """
    if autocast is not None or window is not None:
        warn_user(
            "precision, accumulate and clip_norm belong to TrainStep; a step of one's own does that itself, so they "
            "have no effect here"
        )
    if isinstance(step, TrainStep):
        return step

    def prepared_and_counted(learn: Any) -> Any:
        learn.steps_before = learn.step
        learn.batch, learn.loss = prepare(learn.batch), None
        output = step(learn)
        if not isinstance(learn.loss, Tensor):
            raise TypeError(
                f"a step of one's own leaves learn.preds and learn.loss, a 0-d tensor; got {learn.loss!r} as the loss: "
                "assign learn.loss = ..."
            )
        learn.step = learn.steps_before + 1  # as it is since learn.callback("after_step"), if that was called
        return output

    return prepared_and_counted


def as_pair(batch: Any, giver: str = "the loader") -> tuple[Any, Any]:
    """A batch as it is, if it is a pair.

    Args:
        batch: what came.
        giver: who gave it, for the message.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch  # type: ignore[return-value]
    what = f"a {type(batch).__name__}" + (f" of {len(batch)}" if isinstance(batch, (tuple, list, dict)) else "")
    way_out = "pass prepare_batch=..., which makes the pair"
    if giver == "prepare_batch":
        way_out = "have it return (x, y)"
    elif isinstance(batch, Tensor):
        way_out += ", or, of tensors of samples, DataLoaders.from_tensors((x, y), (x, y))"
    raise TypeError(f"a batch is a pair (x, y); {giver} gave {what}: {way_out}")


def on_device(batch: Any, device: torch.device) -> Any:
    """The same nest of tuples, lists and dicts, with its tensors and whatever else has a ``to`` on the device."""

    def moved(part: Any) -> Any:
        if isinstance(part, (Tensor, PackedSequence)):
            return part.to(device, non_blocking=True)  # type: ignore[arg-type]  # PackedSequence's knows dtypes alone
        return part.to(device) if callable(getattr(part, "to", None)) else part  # a graph's batch, a tokenizer's

    return map_leaves(batch, moved)


def preparation(device: torch.device, prepare_batch: Callable[[Any], Any] | None) -> Prepare:
    """What makes ``(x, y)`` on the device from a batch of the loader; on the CPU nothing is moved."""
    pair: Prepare = as_pair
    if prepare_batch is not None:
        prepare = prepare_batch

        def pair(batch: Any) -> tuple[Any, Any]:
            return as_pair(prepare(batch), "prepare_batch")

    if device.type == "cpu":
        return pair
    return lambda batch: on_device(pair(batch), device)


def autocast_for(precision: str, device: torch.device) -> Any:
    """The autocast context of a precision on a device; None for "fp32".

    Raises:
        ValueError: another precision.
    """
    types = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if not isinstance(precision, str) or precision not in types:
        raise ValueError(f"precision is one of 'fp32', 'bf16' and 'fp16'; got {precision!r}")
    return None if precision == "fp32" else torch.autocast(device.type, types[precision])
