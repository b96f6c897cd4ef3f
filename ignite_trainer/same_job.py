"""Whether a saved state is of this job: what is compared, what is refused where it differs, what is warned of."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from ignite.handlers import Checkpoint as IgniteCheckpoint
from ignite.metrics import Metric
from torch.utils.data import DataLoader

from .callbacks import in_order
from .learner_like import LearnerLike
from .loadable import UNKNOWN, shapes_of
from .nests import tensors_in
from .shares import loader_identity
from .user_warnings import warn_user

__all__ = [
    "check_groups",
    "check_state",
    "generators_of",
    "loss_state",
    "options_of",
    "refuse_persistent_workers",
    "stateful",
    "warn_of_lost_state",
]


def check_state(learn: LearnerLike, state: dict[str, Any], path: Any) -> None:
    """Refuse a state that is another job's.

    Raises:
        ValueError: data, batch size, seed, options or the model's shapes are not those that were saved; names both.
    """
    for what, saved, current in (
        ("option", state["options"], options_of(learn)),
        ("training loader", *_identities(state["train"], learn.train_dl)),
        ("validation loader", *_identities(state["valid"], learn.valid_dl)),
    ):
        for key in sorted(saved):
            if saved[key] != current.get(key):
                or_none = ", or no __len__ where it changes from epoch to epoch" if key == "length" else ""
                raise ValueError(
                    f"{path} was saved with {key} {saved[key]!r}, the {what} has {current.get(key)!r} now: the same is "
                    f"needed to resume{or_none}"
                )
    for part, ours in (("model", learn.model.state_dict()), ("loss", loss_state(learn))):
        shapes, saved_shapes = shapes_of(ours), shapes_of(state[part])
        for name in [*saved_shapes, *shapes]:
            is_open = name in saved_shapes and shapes.get(name) == UNKNOWN
            if saved_shapes.get(name) != shapes.get(name) and not is_open:
                raise ValueError(
                    f"{path} was saved with {name} of shape {saved_shapes.get(name)}, the {part} has "
                    f"{shapes.get(name)} now: the same {part} is needed to resume"
                )
    for name in state["callbacks"].keys() - stateful(learn.cbs).keys():
        warn_user(f"{path} has a state of {name}, and there is no such callback now; it is left out")


def check_groups(optimizer: Any, saved: dict[str, Any]) -> None:
    """Refuse an optimizer of another number of groups than the saved one.

    Raises:
        ValueError: it has; names both.
    """
    now, then = (len(groups) for groups in (getattr(optimizer, "param_groups", ()), saved.get("param_groups", ())))
    if now != then:
        raise ValueError(
            f"a resumed optimizer has the groups of parameters that were saved; {type(optimizer).__name__} has {now} "
            f"now, the checkpoint {then}: make all of them at the start, and thaw with requires_grad_() what is to be "
            "trained later"
        )


def warn_of_lost_state(learn: LearnerLike, path: Any, saved: Collection[str]) -> None:
    """Say what has a state that the checkpoint lacks: native handlers, an optimizer without ``state_dict``, callbacks.

    Args:
        learn: the Learner.
        path: the checkpoint, for the message.
        saved: the names of the callbacks in it.

    Warns:
        UserWarning: it begins anew, where the rest of the fit goes on.
    """
    handlers = [*learn.trainer.all_natives(), *learn.evaluator.all_natives()]
    owners = {id(owner): owner for owner in (getattr(handler, "__self__", handler) for handler in handlers)}
    lost = [
        f"{type(owner).__name__}, which is attached to an engine"
        for owner in owners.values()
        if hasattr(owner, "state_dict") and not isinstance(owner, (Metric, IgniteCheckpoint))
    ]
    if not hasattr(learn.opt, "state_dict"):
        ours = {id(parameter) for parameter in learn.model.parameters()}
        if any(id(tensor) not in ours for _, tensor in tensors_in(getattr(learn.opt, "__dict__", {}))):
            lost.append(f"{type(learn.opt).__name__}, which has no state_dict")
    lost += [f"{name}, which was not there" for name in stateful(learn.cbs) if name not in saved]
    for name in lost:
        warn_user(
            f"{path} has no state of {name}: it begins anew; callbacks and optimizers with state_dict and "
            "load_state_dict go on, as do Schedule and EarlyStopping"
        )


def refuse_persistent_workers(loader: Any) -> None:
    """Workers that live on hold random states that cannot be saved.

    Raises:
        ValueError: a stock DataLoader with ``persistent_workers``.
    """
    if isinstance(loader, DataLoader) and loader.persistent_workers:
        raise ValueError(
            "a stock DataLoader with persistent_workers=True cannot be resumed, as its workers' random states live on; "
            "got one with a Checkpoint: take DataLoaders.from_datasets, or leave persistent_workers out"
        )


def stateful(cbs: Iterable[Any]) -> dict[str, Any]:
    """The callbacks that have a state, by class name; the second of a class is ``Name#2``."""
    named: dict[str, Any] = {}
    for cb in in_order(cbs):
        if hasattr(cb, "state_dict") and hasattr(cb, "load_state_dict"):
            name, number = type(cb).__name__, 2
            while name in named:
                name, number = f"{type(cb).__name__}#{number}", number + 1
            named[name] = cb
    return named


def loss_state(learn: LearnerLike) -> dict[str, Any]:
    """What a loss has of its own: class weights, a centre that follows the predictions."""
    return learn.loss_func.state_dict() if isinstance(learn.loss_func, torch.nn.Module) else {}


def options_of(learn: LearnerLike) -> dict[str, Any]:
    """What the saved optimizer would go on with, whatever is given now."""
    defaults = dict(getattr(learn.opt, "defaults", {}))
    if learn.lr is not None:
        defaults.pop("lr", None)
    groups = {
        f"{name} of group {i}": value
        for i, group in enumerate(learn.optimizer_options.groups_made)
        for name, value in group.items()
        if _is_plain_number(value)
    }
    return {
        **{f"optimizer.{name}": value for name, value in defaults.items() if _is_plain_number(value)},
        **groups,
        "accumulate": learn.accumulate,
        "precision": learn.precision,
        "optimizer": type(learn.opt).__name__,
        "lr": None if learn.lr is None else float(learn.lr),
    }


def generators_of(loader: Any) -> list[torch.Generator]:
    """The generators of a stock DataLoader and its samplers, each once."""
    parts, seen, found = [loader], set[int](), []
    while parts:  # a sampler of batches has one of samples
        part = parts.pop(0)
        if part is not None and id(part) not in seen:
            seen.add(id(part))
            found.append(getattr(part, "generator", None))
            parts += [getattr(part, "sampler", None), getattr(part, "batch_sampler", None)]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _identities(saved: dict[str, Any], loader: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a loader was when it was saved, and what it is: its generators are counted too."""
    then, now = dict(saved["identity"]), loader_identity(loader)
    if "generators" in saved:
        then["generators"], now["generators"] = len(saved["generators"]), len(generators_of(loader))
    return then, now


def _is_plain_number(value: Any) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return all(type(part) in (int, float) for part in parts)
