"""``ignite-trainer replay``: rerun the batch in which a fit failed, and see whether it fails again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ignite.engine import Events
from torch import Tensor

from ..events import CancelEpochException, CancelFitException
from ..handlers import Checkpoint, NaNGuard, RunFiles, TensorBoard
from ..handlers.crash import CrashReport, event_of, load_crash
from ..learner import Learner
from ..resume import restore
from ..same_job import check_state, stateful
from .jobs import make_learner
from .mistakes import UserMistake

__all__ = ["replay"]


def replay(file: Path, job: str | None = None, /) -> int:
    """Show a crash report and, with the job's function, run that batch again.

    Example: ignite-trainer replay runs/20260131-235959/crash.pt my_job:make

    Args:
        file: a run's crash.pt.
        job: module:function, called with a folder (a temporary one); returns (learner, n_epochs) as for verify resume.
            None: the report is only shown.

    Returns:
        0: the same error came again, or there was nothing to run; 1: no error came, or another one.
    """
    try:
        report = load_crash(file)
    except ValueError as damage:
        raise UserMistake(str(damage)) from damage
    print("\n".join(_described(report)), flush=True)
    if job is None:
        return 0
    with tempfile.TemporaryDirectory() as folder:
        learn, _ = make_learner(job, Path(folder))
        error = _run_again(learn, report, file)
    if report["error"]["type"] == "":
        return _say_whether_finite(learn, report, error)
    before = (report["error"]["type"], report["error"]["text"], report["error"]["raised_by"])
    if error is not None and before == (type(error).__name__, str(error), getattr(error, "raised_by", "")):
        print("again: the same error, raised by the same")
        return 0
    print("again: no error came" if error is None else f"again: another error came: {_line(error)}")
    return 1


def _described(report: dict[str, Any]) -> Iterator[str]:
    error = report["error"]
    yield f"{error['type']}: {error['text']}" if error["type"] else error["text"]
    event = event_of(error["raised_by"])
    who = f"raised by {error['raised_by']}" + (f" (event {event})" if event and event not in error["raised_by"] else "")
    place = f"{report['phase']}, epoch {report['epoch']}, batch {report['batch']}"
    step = {True: ", after its step", False: ", before its step"}[report["step_taken"]]
    yield f"{who if error['raised_by'] else 'noticed'}: {place}{step if report['phase'] == 'training' else ''}"
    if error["raised_by"].startswith("the metric "):
        yield "the metric begins with this batch: what it had added up before is not in the report"
    if report["samples"] is not None:
        yield f"samples {_numbers(report['samples'])}"
    if report["changed_kinds"]:
        kinds = ", ".join(report["changed_kinds"])
        yield f"a report keeps plain data: of {kinds} in the batch it has the contents alone"
    bad = report["first_bad"]
    if bad is not None and bad["samples"] is not None and bad["batch"] != report["batch"]:
        yield f"samples of the first batch that was not finite, {bad['batch']}: {_numbers(bad['samples'])}"


def _numbers(samples: list[int]) -> str:
    return ", ".join(map(str, samples[:64])) + (f" and {len(samples) - 64} more" if len(samples) > 64 else "")


def _line(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{text}, raised by {getattr(error, 'raised_by', 'the job')}"


def _run_again(learn: Learner, report: dict[str, Any], file: Path) -> Exception | None:
    """The error of the one batch, run in a fit that is put where the other one was."""
    state, training = report["state"], report["phase"] == "training"
    engine = learn.trainer if training else learn.evaluator
    writers = (Checkpoint, CrashReport, RunFiles, TensorBoard)
    for name, cb in stateful(learn.cbs).items():
        if isinstance(cb, writers):
            state["callbacks"].pop(name, None)
    learn.cbs = [cb for cb in learn.cbs if not isinstance(cb, writers)]

    def begin(epochs: Any) -> Iterator[Any]:
        try:
            check_state(learn, state, file)
        except ValueError as error:
            raise UserMistake(str(error)) from error
        learn.trainer.state.epoch, learn.trainer.state.iteration = report["epoch"] + 1, state["progress"]["iteration"]
        engine.place = report["batch"] - 1
        restore(learn, state)
        return iter([report["inputs"]])

    def enough() -> None:
        raise CancelFitException

    def straight_to_validation() -> None:
        raise CancelEpochException

    engine.opener = begin
    engine.add_event_handler(Events.ITERATION_COMPLETED, enough)
    if not training:
        learn.trainer.add_event_handler(Events.EPOCH_STARTED, straight_to_validation)
    try:
        learn.fit(state["progress"]["n_epochs"])
    except UserMistake:
        raise
    except Exception as error:
        return error
    return None


def _say_whether_finite(learn: Learner, report: dict[str, Any], error: Exception | None) -> int:
    if error is not None:
        print(f"again: another error came: {_line(error)}")
        return 1
    state = report["state"]["model"].items()
    bad = [name for name, value in state if isinstance(value, Tensor) and not value.isfinite().all()]
    if bad:
        looks_at_all = any(isinstance(cb, NaNGuard) and cb.every_steps == 1 for cb in learn.cbs)
        way_out = "NaNGuard('skip') looks before the step" if looks_at_all else "NaNGuard(every_steps=1) looks sooner"
        print(f"in the report {bad[0]} is not finite already: {way_out}")
    print(f"again: the loss is {learn.loss.item()}")
    return 1 if learn.loss.isfinite() else 0
