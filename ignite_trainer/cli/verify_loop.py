"""``ignite-trainer verify loop``: a loop written by hand and a Learner give the same weights after every step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..learner import Learner
from ..nests import bytes_of
from ..rng import get_rng_state, seed_everything
from .jobs import builtin_loop_job, call, find_function
from .mistakes import UserMistake

__all__ = ["loop"]

Digests = dict[str, bytes]


def loop(function: str, /, *, seed: int = 0) -> int:
    """Check that a loop of your own and a Learner take the same steps.

    Example: ignite-trainer verify loop my_loop:train

    Both start from the same seed. Their weights are compared after every
      optimizer step; buffers and random generators at the end.

    Args:
        function: module:function, called as f(model, optimizer, loss_fn, train_dl, valid_dl, epochs). A function job in
            that module, if there is one, makes the arguments: job() -> (model, optimizer_function, loss_fn, train_dl,
            valid_dl, epochs), where optimizer_function(parameters) -> optimizer; else a built-in job is trained.
        seed: of the random generators, before the job is made.

    Returns:
        0: equal; 1: not.
    """
    by_hand = find_function(function)
    sides = _Sides(by_hand, find_function(f"{function.partition(':')[0]}:job", optional=True), seed, function)
    hand = _Record()
    sides.run_by_hand(hand)
    if not hand.steps:
        raise UserMistake(f"{function} has called optimizer.step() not once; there is nothing to compare")
    ours = _Record(until=hand.parts_at)
    sides.run_learner(ours)
    step = next((i for i, (a, b) in enumerate(zip(hand.steps, ours.steps, strict=False)) if a != b), None)
    if step is not None:
        print(_apart(sides, hand, ours, step))
        return 1
    if len(hand.steps) != len(ours.steps):
        more = f"more than {len(hand.steps)}" if len(ours.steps) > len(hand.steps) else f"{len(ours.steps)}"
        print(f"they part after {min(len(hand.steps), len(ours.steps))} optimizer steps: the loop makes ", end="")
        print(f"{len(hand.steps)}, the Learner {more}")
        return 1
    different = [name for name in hand.end if hand.end[name] != ours.end[name]]
    if different:
        print(f"all {len(hand.steps)} optimizer steps are equal; after the last one {different[0]} is not")
        return 1
    print(f"equal: {len(hand.steps)} optimizer steps of {len(hand.steps[0])} tensors, and the random generators")
    return 0


class _Enough(Exception):
    """What had to be seen was seen: leave the training."""


class _Record:
    """The tensors of a model after each optimizer step, as digests; and as they are, after the last one.

    Args:
        until: (number of the step, from 0; its digests) → whether to leave the training there.
    """

    def __init__(self, until: Callable[[int, Digests], bool] | None = None):
        self.until = until
        self.steps: list[Digests] = []
        self.end: Digests = {}
        self.tensors: dict[str, Tensor] = {}

    def parts_at(self, step: int, digests: Digests) -> bool:
        """Whether another run has left this one there."""
        return step >= len(self.steps) or digests != self.steps[step]

    def watch(self, model: nn.Module, optimizer: Any) -> None:
        """Look at the model after each ``optimizer.step()``."""
        step = optimizer.step

        def watched(*args: Any, **kwargs: Any) -> Any:
            result = step(*args, **kwargs)
            tensors = _tensors(model)
            digests = _digests(tensors)
            self.steps.append(digests)
            if self.until is not None and self.until(len(self.steps) - 1, digests):
                self.tensors = {name: tensor.clone() for name, tensor in tensors.items()}
                raise _Enough
            return result

        optimizer.step = watched

    def finish(self, model: nn.Module) -> None:
        """Look at the end."""
        state = get_rng_state()
        generators = {f"the state of {name}'s generator": repr(state[name]).encode() for name in ("python", "numpy")}
        generators["the state of torch's generator"] = bytes(state["torch"].numpy())
        self.end = {**_digests(_tensors(model)), **generators}


class _Sides:
    """The two that are compared, each made anew from the seed."""

    def __init__(self, by_hand: Callable[..., Any], job: Callable[[], Any] | None, seed: int, name: str):
        self.by_hand, self.job, self.seed, self.name = by_hand, job or builtin_loop_job, seed, name

    def run_by_hand(self, record: _Record) -> None:
        model, optimizer, *others = self._parts(record)
        self._run(record, model, lambda: self.by_hand(model, optimizer, *others), self.name)

    def run_learner(self, record: _Record) -> None:
        model, optimizer, loss_func, train_dl, valid_dl, epochs = self._parts(record)
        device = next((parameter.device for parameter in model.parameters()), None)

        def train() -> None:
            Learner(model, (train_dl, valid_dl), loss_func, optimizer=optimizer, device=device).fit(epochs)

        self._run(record, model, train, "the Learner")

    def _run(self, record: _Record, model: nn.Module, train: Callable[[], Any], what: str) -> None:
        def enough() -> None:
            try:
                train()
            except _Enough:
                return
            record.finish(model)

        call(enough, what=what)

    def _parts(self, record: _Record) -> tuple[Any, ...]:
        seed_everything(self.seed)
        parts = call(self.job, what="job()")
        if not (isinstance(parts, tuple) and len(parts) == 6):
            raise UserMistake(
                "job() returns (model, optimizer_function, loss_fn, train_dl, valid_dl, epochs); "
                f"it returned a {type(parts).__name__}" + (f" of {len(parts)}" if isinstance(parts, tuple) else "")
            )
        model, optimizer_function, *others = parts
        optimizer = call(optimizer_function, model.parameters(), what="optimizer_function(parameters)")
        record.watch(model, optimizer)
        return model, optimizer, *others


def _apart(sides: _Sides, hand: _Record, ours: _Record, step: int) -> str:
    """Where the two part: the loop is run once more, up to that step, for the numbers themselves."""
    again = _Record(until=lambda i, digests: i == step)
    sides.run_by_hand(again)
    if again.steps[: step + 1] != hand.steps[: step + 1]:
        return f"{sides.name} gives other weights each time it is run, from the same seed: nothing can equal it"
    name = next(name for name in hand.steps[step] if hand.steps[step][name] != ours.steps[step].get(name))
    distance = (again.tensors[name].double() - ours.tensors[name].double()).abs().max().item()
    return f"they part at optimizer step {step + 1} of {len(hand.steps)}: {name}, {distance:.3g} apart"


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: part for name, part in model.state_dict().items() if isinstance(part, Tensor)}  # no extra state


def _digests(tensors: dict[str, Tensor]) -> Digests:
    return {name: hashlib.blake2b(bytes_of(tensor)).digest() for name, tensor in tensors.items()}
