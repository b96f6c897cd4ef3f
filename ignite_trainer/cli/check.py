"""``ignite-trainer check``: look for mistakes in a job before a long run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..inspection import check as look_at
from ..learner import Learner
from .build import build_job, check_last_batch
from .jobs import call, make_learner
from .mistakes import UserMistake
from .options import parse_options
from .train import say

__all__ = ["CHECK_HELP", "check"]

CHECK_HELP = """Look for mistakes in a job before a long run.

Example: ignite-trainer check --data folder:photos --size 64 --lr 0.01

It takes the options of train, so that the same command line works; those that
  matter only in a whole run, such as --epochs and --folder, change nothing.

Or, for a Learner of your own: ignite-trainer check my_job:make
  where make(folder) returns (learner, n_epochs), as for verify resume.

Facts are certainly wrong: labels outside the outputs, NaN in the data, the
  same image in training and validation, a parameter that gets no gradient,
  softmax before cross-entropy, NLL without log-softmax, a model left in eval
  mode. With --augment the same image is found only where images are in
  memory, not in files.

Hints may be wrong: the loss at the start far from ln(classes), unscaled
  inputs, constant labels, a parameter that the optimizer does not have, one
  batch that cannot be overfitted, a learning rate that the finder would not
  choose.

It trains a few steps and reads the data once, and keeps nothing of that.

Exit code 0: no fact was found, 1: some were.
"""


def check(words: Sequence[str]) -> int:
    """Look at a job and print what was found.

    Args:
        words: of the command line, after ``check``.

    Returns:
        0: there is no fact; 1: there are some.
    """
    with tempfile.TemporaryDirectory() as folder:
        learn = _learner(words, Path(folder))
        inspection = call(look_at, learn, what="the job")
    say(str(inspection))
    return 1 if inspection.facts else 0


def _learner(words: Sequence[str], folder: Path) -> Learner:
    if words and not words[0].startswith("-"):
        if len(words) > 1:
            raise UserMistake(f"check takes a job's function or options; got {words[0]!r} and {words[1]!r}")
        return make_learner(words[0], folder)[0]
    given = parse_options(words, prog="ignite-trainer check", description=CHECK_HELP)
    job = build_job(given.options, folder=folder)
    check_last_batch(job)
    return job.learn
