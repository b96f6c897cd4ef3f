"""The command line, ``ignite-trainer``: verify, replay."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on stderr, without a traceback.

    Args:
        args: words of the command line; None: those of this process.

    Returns:
        The exit code: 0 done, 1 a check that does not hold, 2 a user's mistake.
    """
    import tyro

    from .mistakes import UserMistake
    from .replay import replay
    from .verify_loop import loop
    from .verify_resume import resume

    verify: dict[str, Callable[..., int]] = {"resume": resume, "loop": loop}

    def verify_help() -> int:
        """See that a run can be interrupted anywhere (verify resume), or equals a loop of one's own (verify loop)."""
        return 0

    words = list(sys.argv[1:] if args is None else args)
    try:
        if words[:1] == ["verify"]:
            code = tyro.extras.subcommand_cli_from_dict(verify, prog="ignite-trainer verify", args=words[1:])
        else:
            commands: dict[str, Callable[..., int]] = {"verify": verify_help, "replay": replay}
            code = tyro.extras.subcommand_cli_from_dict(commands, prog="ignite-trainer", args=words)
    except UserMistake as mistake:
        print(f"ignite-trainer: {mistake}", file=sys.stderr)
        return 2
    return int(code)
