"""Learning-rate schedules: a torch scheduler, stepped when the optimizer has stepped."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal

from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..callbacks import Callback
from ..epochs import loader_length
from ..learner_like import LearnerLike
from ..optim import rates_of
from ..schedules import LRSchedule, build_scheduler
from ..user_warnings import warn_user
from .best import check_monitor, direction_of

__all__ = ["Schedule"]

# what schedulers of torch 2.13 count with, and what they read off the optimizer; their other values are options
_NO_OPTIONS = {"last_epoch", "T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter", "base_lrs", "initial_lr"}


class Schedule(Callback):
    """Changes the learning rate by a scheduler, which is made anew at every fit, for that fit's optimizer.

    The scheduler is stepped only when the optimizer has stepped: not after a cancelled batch, within a window of
    ``accumulate`` batches, or after a float16 step that overflowed; per epoch, only if a step was taken in it.

    Args:
        scheduler: ``one_cycle(...)`` or ``warmup_cosine(...)``, which know the run's number of steps; a function from
            the optimizer to a torch scheduler; or a plain function from the steps taken to a factor of the rates.
        step: "batch": after each optimizer step; "epoch": after each epoch; "validate": likewise, with the monitored
            value, for ReduceLROnPlateau.
        monitor: a key of a history row, for "validate".

    Raises:
        ValueError: another ``step``; at ``before_fit`` a schedule that needs the number of steps with a loader whose
            length is not known, an unknown monitor, ReduceLROnPlateau without "validate", or the other way round.
        TypeError: ``scheduler`` is none of these.

    >>> from ignite_trainer import one_cycle
    >>> cbs = [Schedule(one_cycle(0.5)), Schedule(lambda step: 0.9**step)]
    """

    order = 10

    def __init__(
        self,
        scheduler: Any,
        *,
        step: Literal["batch", "epoch", "validate"] = "batch",
        monitor: str = "valid_loss",
    ):
        if step not in ("batch", "epoch", "validate"):
            raise ValueError(f"step is 'batch', 'epoch' or 'validate'; got {step!r}")
        self.spec, self.every, self.monitor = scheduler, step, monitor
        self.scheduler: Any = None
        self._laid_out: int | None = None  # over so many of its own steps
        self._made_of: dict[str, Any] = {}
        self._steps_before_epoch = 0
        self._left_out: tuple[float, ...] | None = None  # what the step after the last would have been given
        if step != "batch":
            self._leave_out("after_step")

    def before_fit(self, learn: LearnerLike) -> None:
        """Make the scheduler, which at once sets the first rates."""
        former, left_out = self.scheduler, self._left_out
        self._steps_before_epoch, self._left_out = learn.step, None
        self._laid_out = self._steps_of_run(learn) if self.every == "batch" else learn.n_epochs
        if learn.n_epochs == 0:  # nothing is trained, and there is nothing to lay out
            self.scheduler = None
            return
        rates, groups = rates_of(learn.opt), [set(group) for group in getattr(learn.opt, "param_groups", ())]
        self.scheduler = build_scheduler(self.spec, learn.opt, self._laid_out)
        if self.scheduler is not former:
            self._made_of = self._what_was_made(rates, groups)
        if self.scheduler is former and left_out is not None:  # one that is kept over fits goes on
            self._step(*left_out, last=False)
        if isinstance(self.scheduler, ReduceLROnPlateau) != (self.every == "validate"):
            raise ValueError(
                "ReduceLROnPlateau is stepped with a monitored value, step='validate', and no other scheduler is; "
                f"got {type(self.scheduler).__name__} with step={self.every!r}"
            )
        if self.every == "validate":
            check_monitor(self.monitor, learn.monitors)
            better = direction_of(self.monitor)
            if better is not None and better != self.scheduler.mode:
                warn_user(
                    f"by its name {self.monitor} is better the {'lower' if better == 'min' else 'higher'} it is; "
                    f"ReduceLROnPlateau(mode={self.scheduler.mode!r}) lowers the rate then: give mode={better!r}"
                )

    def after_step(self, learn: LearnerLike) -> None:
        """Step the scheduler of steps."""
        if learn.in_fit and self.every == "batch":
            self._step(last=self._laid_out is not None and learn.step >= self._laid_out)

    def after_validate(self, learn: LearnerLike) -> None:
        """Step the scheduler of epochs, if the epoch has moved the weights."""
        moved, self._steps_before_epoch = learn.step > self._steps_before_epoch, learn.step
        if self.every != "batch" and moved:
            value = (learn.history[-1][self.monitor],) if self.every == "validate" else ()
            self._step(*value, last=learn.epoch + 1 == learn.n_epochs)

    def _step(self, *value: float, last: bool) -> None:
        """n steps have n rates: none is set after the last, unless a fit goes on behind it."""
        if last:
            self._left_out = value
        else:
            self.scheduler.step(*value)

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's state."""
        return {
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "steps_before_epoch": self._steps_before_epoch,
            "laid_out": self._laid_out,
            "made_of": self._made_of,
            "left_out": self._left_out,
        }

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse a ``state_dict`` of another schedule; called after ``before_fit``, before anything is put back.

        Raises:
            ValueError: a schedule over the whole run, and the run has another length now; another schedule, or one of
                other options, as the saved ones would be gone on with.
        """
        if self.scheduler is None:
            return
        before = state["laid_out"]
        if isinstance(self.spec, LRSchedule) and before != self._laid_out:
            unit = "steps" if self.every == "batch" else "epochs"
            raise ValueError(
                f"{self.spec} was laid out over {before} {unit}, the run has {self._laid_out} now: the same number of "
                "epochs is needed to resume"
            )
        then, now = state["made_of"], self._made_of
        compared = {name: (then[name], now[name]) for name in ("kind", "step")}
        if then["rates"] == now["rates"]:  # of an optimizer that is kept they may be others, and options made of them
            options = then["options"]
            compared |= {name: (options.get(name, value), value) for name, value in now["options"].items()}
        for name, (saved, given) in compared.items():
            if saved != given:
                raise ValueError(
                    f"a resumed Schedule goes on with what was saved; its {name} was {saved} then and is {given} now: "
                    "give the same, or begin another fit with learn.load(path)"
                )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict``; called after ``before_fit``."""
        if self.scheduler is None:
            return
        self.scheduler.load_state_dict(state["scheduler"])
        self._steps_before_epoch = state["steps_before_epoch"]
        if state["left_out"] is not None and (self._laid_out or 0) > state["laid_out"]:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
                self._step(*state["left_out"], last=False)  # the optimizer has stepped, before this process began

    def _what_was_made(self, rates: list[float], groups: list[set[str]]) -> dict[str, Any]:
        """What tells this schedule from another, as plain data; rates and keys of the groups are those before it."""
        given = self.spec.options if isinstance(self.spec, LRSchedule) else {}
        added = {  # a highest rate, say
            f"{name} of group {i}": group[name]
            for i, group in enumerate(self.scheduler.optimizer.param_groups)
            for name in sorted(group.keys() - groups[i] - _NO_OPTIONS)
        }
        return {
            "kind": self.spec.name if isinstance(self.spec, LRSchedule) else type(self.scheduler).__name__,
            "step": self.every,
            "rates": rates,
            "options": {**_as_texts({**given, **added}), **_options_of(self.scheduler)},
        }

    @staticmethod
    def _steps_of_run(learn: LearnerLike) -> int | None:
        try:
            return int(learn.n_epochs * math.ceil(loader_length(learn.dl) / learn.accumulate))
        except TypeError:
            return None


def _options_of(scheduler: Any) -> dict[str, str]:
    """The options of a scheduler and of its parts, as text."""
    own = {name: value for name, value in vars(scheduler).items() if not name.startswith("_")}
    within = getattr(scheduler, "_schedulers", ())
    parts = {f"{name} of part {i}": value for i, part in enumerate(within) for name, value in _options_of(part).items()}
    own["milestones"] = own.get("milestones", getattr(scheduler, "_milestones", None))
    return {**parts, **_as_texts(own)}


def _as_texts(options: Mapping[str, Any]) -> dict[str, str]:
    """Those options that are plain data, as text."""
    texts = {name: _as_text(value) for name, value in options.items() if name not in _NO_OPTIONS}
    return {name: text for name, text in texts.items() if text is not None}


def _as_text(value: Any) -> str | None:
    """Plain data as text, the same for the same data; None for anything else."""
    if isinstance(value, Mapping):
        value = sorted(value.items())
    if isinstance(value, (list, tuple)):
        parts = [_as_text(part) for part in value]
        return None if None in parts else f"[{', '.join(map(str, parts))}]"
    return repr(value) if value is None or isinstance(value, (bool, int, float, str)) else None
