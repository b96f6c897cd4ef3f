"""Signals: a fit that is asked to end finishes its batch first."""

from __future__ import annotations

import signal
import threading
from typing import Any

__all__ = ["EXIT_RESUMABLE", "SignalWatch"]

EXIT_RESUMABLE = 75
"""The exit code of a run that was stopped by a signal and can be resumed (EX_TEMPFAIL of sysexits.h)."""

_WATCHED = ("SIGTERM", "SIGUSR1", "SIGINT")


class SignalWatch:
    """Notes SIGTERM, SIGUSR1 and Ctrl-C instead of dying of them; a second Ctrl-C interrupts at once.

    Only in the main thread, where Python lets signals be handled; elsewhere nothing is watched.
    """

    def __init__(self) -> None:
        self.received = ""
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
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
