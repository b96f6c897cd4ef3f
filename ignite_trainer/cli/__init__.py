"""The command line, ``ignite-trainer``: train, resume, evaluate, predict, export, check, verify, replay."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from typing import TextIO

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on stderr, without a traceback.

    Args:
        args: words of the command line; None: those of this process.

    Returns:
        The exit code: 0 done; 1 a check does not hold, or a run is broken; 2 a user's mistake; 130 interrupted.

    Raises:
        SystemExit: 75, a run was stopped by a signal and can be resumed; tyro's 0 after help and 2 after a wrong flag.
    """
    from .mistakes import UserMistake

    words = list(sys.argv[1:] if args is None else args)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return _run(words)
    except UserMistake as mistake:
        print(f"ignite-trainer: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ignite-trainer: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read has had enough, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at exit
        return 1


_COMMANDS = {
    "train": "Train a classifier and keep everything about the run in one folder.",
    "resume": "Continue a run that was stopped.",
    "evaluate": "Print a run's loss and accuracy, results per class, and the confusion matrix.",
    "predict": "Print the predicted class of images, with its probability.",
    "export": "Write a run's model to a file for use elsewhere.",
    "check": "Look for mistakes in a job before a long run: facts and hints.",
    "verify": "Verify that a run survives being killed, or that a loop of yours equals the Learner.",
    "replay": "Rerun the batch in which a fit failed.",
}


def _run(words: list[str]) -> int:
    import tyro

    name, rest = (words[0] if words else ""), words[1:]
    if name not in _COMMANDS:
        return _overview(words)
    if name == "verify":
        from .verify_loop import loop
        from .verify_resume import resume

        verify: dict[str, Callable[..., int]] = {"resume": resume, "loop": loop}
        return int(tyro.extras.subcommand_cli_from_dict(verify, prog="ignite-trainer verify", args=rest))
    module = importlib.import_module(f".{'train' if name == 'resume' else name}", __name__)
    command: Callable[..., int] = getattr(module, name)
    if name in ("train", "check"):
        return command(rest)  # they know options of a file, too
    return tyro.cli(command, prog=f"ignite-trainer {name}", args=rest)


def _overview(words: list[str]) -> int:
    """The help of the program itself; anything else is a mistake. With tyro it is wider than 80 columns."""
    from .mistakes import UserMistake

    if words[:1] not in (["--help"], ["-h"]):
        nearest = difflib.get_close_matches(words[0], _COMMANDS, n=1) if words else []
        way_out = f"did you mean {nearest[0]}?" if nearest else "`ignite-trainer --help` tells what each does"
        got = repr(words[0]) if words else "none"
        raise UserMistake(f"a command is one of {', '.join(_COMMANDS)}; got {got}, {way_out}")
    print("usage: ignite-trainer COMMAND ...\n\ncommands, each with a --help of its own:")
    for name, line in _COMMANDS.items():
        print(textwrap.fill(line, 80, initial_indent=f"  • {name:10}", subsequent_indent=" " * 14))
    raise SystemExit(0)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"ignite-trainer: warning: {' '.join(str(message).split())}", file=sys.stderr)
