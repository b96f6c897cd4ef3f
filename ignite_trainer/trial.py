"""Trials: training for a while with a learner's own parts, after which all of them are as they were."""

from __future__ import annotations

import copy
import math
import pickle
import random
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, MutableMapping, MutableSequence, MutableSet
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import ConcatDataset

from .callbacks import Callback
from .epochs import refuse_one_shot
from .learner import Learner
from .optim import rates_of
from .resume import streams_kept
from .steps import TrainStep

__all__ = ["Memory", "check_learner", "everything_kept", "own_callbacks", "ratios", "set_lr", "trial"]


def check_learner(learn: Any, name: str) -> None:
    """Refuse what is no learner; ``name``: of who tries it.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(learn, Learner):
        raise TypeError(f"{name} looks at a Learner; got a {type(learn).__name__}: make one of it")


@contextmanager
def trial(learn: Learner, train_dl: Any, valid_dl: Any = None, *, cbs: Iterable[Any] = ()) -> Iterator[Learner]:
    """A second learner of the same model, loss, step and optimizer; when it is left, everything is as before.

    The learner itself does nothing meanwhile: its counters, history, engines, callbacks and handlers are not touched.

    Args:
        learn: the learner, not in a fit.
        train_dl: what the second one trains on.
        valid_dl: what it evaluates; None: nothing.
        cbs: its callbacks.

    Raises:
        RuntimeError: a fit or an evaluation is running, or there are several ranks.
        ValueError: the model has parameters without a shape yet.
        TypeError: a loader is a one-shot iterator.
    """
    with everything_kept(learn), tempfile.TemporaryDirectory() as folder:
        yield _twin(learn, train_dl, valid_dl, cbs=cbs, folder=folder)


@contextmanager
def everything_kept(learn: Learner) -> Iterator[None]:
    """In here the learner's model may be trained and its loaders read; at the end, however it comes, all is put back.

    That is: weights, buffers, gradients, modes and attributes of the model and the loss; the optimizer, where one was
    given; the loaders' places and attributes, the generators that they, their samplers and datasets have; the global
    generators. Not: files, and what a dataset, a loader's function, a hook or a step of one's own keeps elsewhere.
    """
    if learn.ranks is not None:
        raise RuntimeError(
            f"a trial runs in one process; this is one of {learn.ranks.world}: try it without torchrun, and fit with it"
        )
    if learn.in_fit or learn.trainer.running or learn.evaluator.running:
        raise RuntimeError("a trial needs the model for itself; this learner is in the middle of a fit or evaluation")
    for name, tensor in [*learn.model.named_parameters(), *learn.model.named_buffers()]:
        if is_lazy(tensor):
            raise ValueError(
                f"a trial puts every tensor back, so each has a shape; {name} has none yet: run the model on one "
                "batch first"
            )
    loaders = [loader for loader in (learn.train_dl, learn.valid_dl) if loader is not None]
    parts = [part for part in (learn.model, learn.loss_func, learn.optimizer_options.optimizer) if part is not None]
    with ExitStack() as stack:
        for loader in loaders:
            refuse_one_shot(loader, "a trial reads loaders that can be read again")
            stack.enter_context(streams_kept(loader))
        for memory in (Memory(loaders, deep=False), Memory(parts)):
            stack.callback(memory.put_back)
        yield


def _twin(learn: Learner, train_dl: Any, valid_dl: Any, *, cbs: Iterable[Any], folder: str) -> Learner:
    """A learner with the model, loss, step and optimizer of another, and engines, loaders and callbacks of its own."""
    options, step = learn.optimizer_options, learn.given_step
    if isinstance(step, TrainStep):
        step = copy.copy(step)
        step.window = copy.deepcopy(step.window)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were given when the learner was made
        twin = Learner(
            learn.model,
            (train_dl, valid_dl),
            learn.loss_func,
            learn.lr,
            cbs,
            learn.opt_func,
            optimizer=options.optimizer,
            param_groups=options.param_groups,
            metrics=learn.metrics,
            device=learn.device,
            precision=learn.precision,
            accumulate=learn.accumulate,
            clip_norm=learn.clip_norm,
            prepare_batch=learn.prepare_batch,
            step=step,
            loss_size=learn.train_loss.size,
            folder=folder,
        )
    if twin.scaler is not None and learn.scaler is not None:
        twin.scaler.load_state_dict(learn.scaler.state_dict())
    return twin


def own_callbacks(learn: Learner) -> tuple[list[Any], list[str]]:
    """Copies of a learner's callbacks that are the user's own, and the names of those that cannot be copied.

    Those of this package, and what is made from them, stop, schedule, count and write: they take no part in trials.
    """
    shared = [learn, learn.trainer, learn.evaluator, learn.model, learn.loss_func, learn.opt]
    shared += [learn.dls, learn.train_dl, learn.valid_dl]
    for part in (learn.model, learn.loss_func):  # a callback may hold one of its layers
        if isinstance(part, nn.Module):
            shared += [*part.modules(), *part.parameters(), *part.buffers()]
    copies, refused = [], []
    for cb in learn.cbs:
        kinds = (kind for kind in type(cb).__mro__ if kind is not Callback)
        if any(kind.__module__.partition(".")[0] == __package__ for kind in kinds):
            continue
        try:
            copies.append(copy.deepcopy(cb, {id(part): part for part in shared}))
        except (TypeError, RuntimeError, pickle.PicklingError):  # what holds a file, a lock, a graph of gradients
            refused.append(type(cb).__name__)
    return copies, refused


def ratios(optimizer: Any) -> list[float]:
    """The rate of each parameter group over that of the first.

    Raises:
        ValueError: the optimizer has no groups, or one of them no rate.
    """
    rates = rates_of(optimizer)
    if not rates or any(map(math.isnan, rates)):
        raise ValueError(
            f"another lr is set in the param_groups of an optimizer; {type(optimizer).__name__} has none: take one of "
            "torch.optim"
        )
    return [rate / rates[0] if rates[0] else 1.0 for rate in rates]


def set_lr(optimizer: Any, lr: float, group_ratios: list[float]) -> None:
    """Give the first group this rate, the others theirs."""
    for group, ratio in zip(optimizer.param_groups, group_ratios, strict=True):
        group["lr"] = lr * ratio


class Memory:
    """What some objects are at a moment: attributes, and in them containers, tensors and generators, to put back.

    Args:
        parts: the objects; of modules the modules in them too, of loaders their samplers and datasets.
        deep: also the contents of tensors and arrays, and containers in containers.

    >>> model = nn.BatchNorm1d(2)
    >>> memory = Memory([model])
    >>> _ = model(torch.rand(4, 2)), model.eval()
    >>> memory.put_back()
    >>> model.running_mean.tolist(), model.training
    ([0.0, 0.0], True)
    """

    def __init__(self, parts: Iterable[Any], *, deep: bool = True):
        self.deep = deep
        self._seen: dict[int, Any] = {}  # the objects too, so that no id is used again
        self._actions: list[Callable[[], None]] = []
        for part in parts:
            self._see_object(part)

    def put_back(self) -> None:
        """Make all of it what it was."""
        with torch.no_grad(), ExitStack() as stack:  # all of it, also where a part fails
            for action in reversed(self._actions):
                stack.callback(action)

    def _is_new(self, value: Any) -> bool:
        new = id(value) not in self._seen
        self._seen[id(value)] = value
        return new

    def _see_object(self, part: Any) -> None:
        if not hasattr(part, "__dict__") or isinstance(part, type) or not self._is_new(part):
            return
        self._see(vars(part), vars(part).values())
        if not self.deep:
            for name in ("dataset", "sampler", "batch_sampler", "order"):
                self._see_object(getattr(part, name, None))
            if isinstance(part, ConcatDataset):
                for dataset in part.datasets:
                    self._see_object(dataset)

    def _see(self, container: Any, values: Iterable[Any]) -> None:
        self._actions.append(_refill(container))
        for value in values:
            self._see_value(value, inside=self.deep)

    def _see_value(self, value: Any, *, inside: bool) -> None:
        if isinstance(value, nn.Module):
            if self.deep:
                self._see_object(value)
        elif isinstance(value, (Tensor, torch.Generator, np.random.Generator, np.random.RandomState, random.Random)):
            if self._is_new(value) and (self.deep or not isinstance(value, Tensor)):
                self._actions.append(_tensor(value) if isinstance(value, Tensor) else _generator(value))
        elif isinstance(value, (MutableMapping, MutableSequence, MutableSet)) and self._is_new(value):
            if type(value).__module__ in ("builtins", "collections"):
                parts = value.values() if isinstance(value, MutableMapping) else value
                self._see(value, list(parts) if inside else ())
        elif isinstance(value, np.ndarray):
            if self.deep and value.flags.writeable and self._is_new(value):
                self._actions.append(partial(np.copyto, value, value.copy()))
        elif isinstance(value, tuple) and inside:
            for part in value:
                self._see_value(part, inside=True)


def _refill(container: Any) -> Callable[[], None]:
    saved = copy.copy(container)

    def refill() -> None:
        container.clear()
        (container.extend if isinstance(container, MutableSequence) else container.update)(saved)

    return refill


def _tensor(tensor: Tensor) -> Callable[[], None]:
    content, leaf = tensor.detach().clone(), tensor.is_leaf
    requires_grad, grad = tensor.requires_grad, tensor.grad if leaf else None
    grad_content = None if grad is None else grad.detach().clone()

    def put_back() -> None:
        if tensor.is_nested or tensor.layout is not torch.strided or tensor.shape != content.shape:
            tensor.data = content.clone()  # torch 2.13 compares neither sparse tensors nor nested ones
        elif not torch.equal(tensor, content):  # one that is expanded cannot be written, nor has it been
            tensor.copy_(content)
        if leaf:
            tensor.requires_grad_(requires_grad)
            tensor.grad = grad
            if grad is not None and grad_content is not None:
                grad.copy_(grad_content)

    return put_back


def _generator(generator: Any) -> Callable[[], None]:
    if isinstance(generator, np.random.Generator):
        state = copy.deepcopy(generator.bit_generator.state)
        return partial(setattr, generator.bit_generator, "state", state)
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    return partial(generator.set_state, generator.get_state())
