"""Signals: a fit that is asked to end finishes its batch first."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

__all__ = ["EXIT_RESUMABLE", "SignalWatch"]

EXIT_RESUMABLE = 75
"""The exit code of a run that was stopped by a signal and can be resumed (EX_TEMPFAIL of sysexits.h)."""

_WATCHED = ("SIGTERM", "SIGUSR1", "SIGINT")


class SignalWatch:
    """Notes SIGTERM, SIGUSR1 and Ctrl-C instead of dying of them; a second Ctrl-C interrupts at once.

    Under torchrun a Ctrl-C comes twice, from the terminal and from the launcher: that is one, if it is within a second.
    Only in the main thread, where Python lets signals be handled; elsewhere nothing is watched.
    """

    def __init__(self) -> None:
        self.received, self._noted_at = "", 0.0
        self._former: dict[int, Any] = {}

    def start(self) -> None:
        """Watch from now on."""
        self.received = ""
        if threading.current_thread() is threading.main_thread() and not self._former:
            for name in _WATCHED:
                number = getattr(signal, name)
                self._former[number] = signal.signal(number, self._note)

    def stop(self) -> None:
        """Give the signals back to whom they were."""
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former = {}

    def _note(self, number: int, frame: Any) -> None:
        is_copy = "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - self._noted_at < 1
        if self.received and number == signal.SIGINT and not is_copy:
            raise KeyboardInterrupt
        self.received, self._noted_at = signal.Signals(number).name, time.monotonic()
