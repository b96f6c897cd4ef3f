"""The timeline of a learner: what runs when in a fit, in order, as rows and as text."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ignite.engine import Events

from .callbacks import has_point, in_order
from .engines import CancellableEngine
from .events import POINTS
from .learner_like import LearnerLike

__all__ = ["TimelineRow", "rows_of", "timeline"]


class TimelineRow(NamedTuple):
    """One call: on which engine, at which event and point, and who is called."""

    engine: str
    event: str
    point: str
    who: str


def timeline(learn: LearnerLike) -> str:
    """The rows as a table of at most 100 columns; what repeats from row to row is left out."""
    lines = [f"{'engine':10}{'event':20}{'point':15}who, in this order"]
    before = TimelineRow("", "", "", "")
    for row in rows_of(learn):
        at = (row.engine, row.event, row.point) if row[:3] != before[:3] else ("", "", "")
        lines.append(f"{at[0]:10}{at[1]:20}{at[2]:15}{row.who}".rstrip()[:100])
        before = row
    return "\n".join(lines)


def rows_of(learn: LearnerLike) -> list[TimelineRow]:
    """Every call of an epoch of one batch, in the order in which it comes; a point where nobody is called has one row.

    Args:
        learn: a Learner; its callbacks and the handlers on its engines as they are now.
    """
    rows = []
    validation = [name for name, point in POINTS.items() if point.evaluator]
    for name, point in POINTS.items():
        rows += _callbacks(learn, "trainer", name)
        if name == "after_epoch":
            rows.append(_row("trainer", name, "validation:" if learn.validates else "no validation"))
        if name == "after_epoch" and learn.validates:
            rows += _natives(learn.evaluator, Events.STARTED)
            for inner in validation:
                rows += _callbacks(learn, "evaluator", inner) + _natives(learn.evaluator, POINTS[inner].event)
            rows += _natives(learn.evaluator, Events.COMPLETED)
        if point.event is not None:
            rows += _natives(learn.trainer, point.event)
        if not rows or (rows[-1].engine, rows[-1].point) != ("trainer", name):
            rows.append(_row("trainer", name, "-"))
    return rows


def _row(engine: str, point: str, who: str) -> TimelineRow:
    event = POINTS[point].event
    return TimelineRow(engine, "(finally)" if event is None else event.name, point, who)


def _callbacks(learn: LearnerLike, engine: str, point: str) -> list[TimelineRow]:
    with_method = [cb for cb in in_order(learn.cbs) if has_point(cb, point)]
    return [_row(engine, point, f"{type(cb).__name__} ({getattr(cb, 'order', 0)})") for cb in with_method]


def _natives(engine: CancellableEngine, event: Any) -> list[TimelineRow]:
    name = "trainer" if engine.training else "evaluator"
    point = next(
        (point for point, row in POINTS.items() if row.event is event and (engine.training or row.evaluator)), ""
    )
    return [TimelineRow(name, event.name, point, _describe(handler)) for handler in engine.natives(event)]


def _describe(handler: Any) -> str:
    """A handler's name, with the file and line where it is written."""
    while isinstance(handler, partial):
        handler = handler.func
    function = inspect.unwrap(handler)
    if not hasattr(function, "__code__") and not hasattr(function, "__func__"):
        function = type(handler).__call__ if not inspect.isbuiltin(handler) else handler
    code = getattr(function, "__code__", None)
    name = getattr(handler, "__qualname__", type(handler).__name__).rpartition("<locals>.")[-1]
    return f"{name}, {Path(code.co_filename).name}:{code.co_firstlineno}" if code else name
