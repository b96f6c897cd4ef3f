"""Signals: a fit that is asked to end finishes its batch first."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any, ClassVar

__all__ = ["EXIT_RESUMABLE", "SignalWatch"]

EXIT_RESUMABLE = 75
"""The exit code of a run that was stopped by a signal and can be resumed (EX_TEMPFAIL of sysexits.h)."""

_WATCHED = ("SIGTERM", "SIGUSR1", "SIGINT")


class SignalWatch:
    """Notes SIGTERM, SIGUSR1 and Ctrl-C instead of dying of them; a second Ctrl-C interrupts at once.

    Under torchrun a Ctrl-C comes twice, from the terminal and from the launcher: two within a second count as one.
    Signals are noted only in the main thread, where Python lets them be handled. Several watches may note the same
    ones; when the last of them stops, the former handlers are put back.
    """

    _watching: ClassVar[list[SignalWatch]] = []
    _former: ClassVar[dict[int, Any]] = {}
    _noted_at: ClassVar[float] = 0.0

    def __init__(self) -> None:
        self.received = ""

    def start(self) -> None:
        """Watch from now on."""
        self.received = ""
        if threading.current_thread() is threading.main_thread() and self not in self._watching:
            if not self._watching:
                for name in _WATCHED:
                    number = getattr(signal, name)
                    self._former[number] = signal.signal(number, self._note)
            self._watching.append(self)

    def stop(self) -> None:
        """Watch no longer; if nobody does, give the signals back to whom they were."""
        if self in self._watching:
            self._watching.remove(self)
            if not self._watching:
                for number, former in self._former.items():
                    signal.signal(number, former)
                self._former.clear()

    @classmethod
    def _note(cls, number: int, frame: Any) -> None:
        is_copy = "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - cls._noted_at < 1
        if number == signal.SIGINT and not is_copy and any(watch.received for watch in cls._watching):
            raise KeyboardInterrupt
        cls._noted_at = time.monotonic()
        for watch in cls._watching:
            watch.received = signal.Signals(number).name
