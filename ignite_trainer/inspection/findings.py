"""What a look at a job has found, and the page that says so."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Finding", "Inspection", "listed"]

WIDTH = 80  # columns of the page


class Finding(NamedTuple):
    """One thing that was found.

    Args:
        kind: which: "labels outside the outputs", "nan", "same image", "no gradient", "softmax", "log-softmax",
            "eval mode"; of hints "outside the optimizer", "loss at the start", "unscaled inputs", "constant labels",
            "cannot be overfitted", "lr".
        text: what, where and the way out, in one sentence.
        is_fact: a fact, or only a hint.
    """

    kind: str
    text: str
    is_fact: bool


@dataclass
class Inspection:
    """What `check` returns; ``print(inspection)`` shows it in 80 columns.

    Args:
        findings: facts first.
        data_seconds: for one batch, waiting for the loader; None where there were too few batches.
        compute_seconds: for one batch, all the rest of a training step.
        looked_at: what was looked at, and what was not, in lines.
    """

    findings: list[Finding] = field(default_factory=list)
    data_seconds: float | None = None
    compute_seconds: float | None = None
    looked_at: list[str] = field(default_factory=list)

    @property
    def facts(self) -> list[Finding]:
        """What is certainly wrong."""
        return [finding for finding in self.findings if finding.is_fact]

    @property
    def hints(self) -> list[Finding]:
        """What may be wrong."""
        return [finding for finding in self.findings if not finding.is_fact]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for name, findings in (("fact", self.facts), ("hint", self.hints)):
            for finding in findings:
                yield from textwrap.wrap(f"{name}: {finding.text}", WIDTH, subsequent_indent="      ")
        if not self.findings:
            yield "nothing found"
        if self.data_seconds is not None and self.compute_seconds is not None:
            both = f"{_seconds(self.data_seconds)} for data, {_seconds(self.compute_seconds)} for computing"
            yield f"seconds per batch: {both}"
        for line in self.looked_at:
            yield from textwrap.wrap(line, WIDTH, subsequent_indent="  ")


def listed(things: list[str], most: int = 5) -> str:
    """The first few of them, and how many more there are.

    >>> listed(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = len(things) - most
    return ", ".join(things[:most]) + (f" and {more} more" if more > 0 else "")


def _seconds(seconds: float) -> str:
    """Three digits that count: 1.23, 0.0123, 0.0000123."""
    magnitude = int(f"{seconds:.2e}".partition("e")[2])
    return f"{seconds:.{max(0, 2 - magnitude)}f}"
