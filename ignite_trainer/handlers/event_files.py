"""The event files of a run: written at once where training runs, and cut back to a step to go on from there."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..files import Aside

__all__ = ["EventFile", "event_files", "summaries", "truncate_events"]

SUFFIX = ".ignite_trainer"  # so that files of a user's own SummaryWriter in the same folder are left alone


class EventFile:
    """One TensorBoard event file, written in the thread that calls, so that an error shows where it happens.

    Within a tag the steps strictly increase: a value at or before the tag's last step is dropped. The first OSError
    closes the file with one warning in the log ``ignite_trainer``, and all later values are dropped, since a run is
    worth more than its dashboard.

    Args:
        folder: of the run, made if it is not there.
        step: 0: event files that are there already are set aside; else the run goes on from this step, and their
            records after it are cut off.
        enabled: False: nothing is written, as on all ranks but the first.
        aside: where those that are set aside go; None: into a folder of their own.

    >>> from tempfile import mkdtemp
    >>> events = EventFile(mkdtemp())
    >>> events.add_scalars({"loss/train": 0.5}, step=1)
    >>> events.close()
    """

    def __init__(self, folder: str | Path, *, step: int = 0, enabled: bool = True, aside: Aside | None = None):
        self._folder = Path(folder)
        self._file: BinaryIO | None = None
        self._writer: Any = None
        self._last: dict[str, int] = {}
        if enabled:
            with self._giving_up():
                self._open(step, aside or Aside())

    def _open(self, step: int, aside: Aside) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped,unused-ignore]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped,unused-ignore]

        self._folder.mkdir(parents=True, exist_ok=True)
        if step:
            self._last = truncate_events(self._folder, step + 1)
        else:
            aside.move(event_files(self._folder), self._folder)
        self._file = open(_new_path(self._folder), "xb")  # noqa: SIM115  open as long as the fit
        self._writer = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    @property
    def is_open(self) -> bool:
        """Whether what is added is written."""
        return self._file is not None

    def add(self, summary: Any, step: int = 0) -> None:
        """Write a summary, as the functions of ``torch.utils.tensorboard.summary`` make them.

        Args:
            summary: a ``Summary``; its values that are not newer than their tag's last are left out.
            step: the x axis, ``learn.step``.
        """
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped,unused-ignore]

        values = [value for value in summary.value if step > self._last.get(value.tag, -1)]
        if self.is_open and values:
            self._last.update((value.tag, step) for value in values)
            with self._giving_up():
                self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """Write numbers of one step: tag → value."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.add(Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]), step)

    def add_graph(self, graph: Any) -> None:
        """Write a model's graph, a ``GraphDef``."""
        from tensorboard.compat.proto.event_pb2 import Event

        if self.is_open:
            with self._giving_up():
                self._write(Event(wall_time=time.time(), graph_def=graph.SerializeToString()))

    def flush(self) -> None:
        """Hand all that was written to the system, where readers see it."""
        if self._file is not None:
            with self._giving_up():
                self._file.flush()

    def close(self) -> None:
        """Flush and close; what comes later is dropped."""
        if self._file is not None:
            with self._giving_up():
                self._file.close()
            self._file = None

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            logging.getLogger("ignite_trainer").warning(
                "the dashboard in %s ends here, training goes on without it: %s", self._folder, error
            )
            if self._file is not None:
                with contextlib.suppress(OSError):  # closing flushes once more: the same error
                    self._file.close()
                self._file = None


def summaries() -> Any:
    """``torch.utils.tensorboard.summary``, whose functions make what `EventFile.add` takes; they have no types."""
    from torch.utils.tensorboard import summary

    return summary


def event_files(folder: str | Path) -> list[Path]:
    """The event files that an `EventFile` wrote into a folder, oldest first."""
    return sorted(Path(folder).glob(f"events.out.tfevents.*{SUFFIX}"))


def truncate_events(folder: str | Path, step: int) -> dict[str, int]:
    """Rewrite the event files of a folder without the records at or after a step, and without the session's end.

    TensorBoard's own purging was seen to leave points. Each file is replaced as a whole; one that ends in the middle
    of a record, as a killed process leaves it, ends after the last whole record.

    Args:
        folder: of a run that is not being written.
        step: the first that goes.

    Returns:
        For each tag that is left its last step.
    """
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader  # type: ignore[import-untyped,unused-ignore]
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG  # type: ignore[import-untyped,unused-ignore]
    from tensorboard.summary.writer.record_writer import RecordWriter

    last: dict[str, int] = {}
    for path in event_files(folder):
        part = path.with_name("truncated.part")
        with open(part, "wb") as file:
            writer = RecordWriter(file)
            for record in RawEventFileLoader(str(path)).Load():
                event = Event.FromString(record)
                tags = [value.tag for value in event.summary.value]
                if event.step < step and SESSION_END_INFO_TAG not in tags:
                    last.update((tag, max(event.step, last.get(tag, -1))) for tag in tags)
                    writer.write(record)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    return last


def _new_path(folder: Path) -> Path:
    """A name that sorts behind those that are there, as readers go through the files by name."""
    stamps = [int(path.name.split(".")[3]) for path in event_files(folder)]
    stamp = max([int(time.time()), *(number + 1 for number in stamps)])
    return folder / f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{os.getpid()}{SUFFIX}"
