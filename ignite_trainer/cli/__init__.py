"""The command line, ``ignite-trainer``."""

__all__ = ["main"]


def main() -> int:
    """Run a command; none is there yet."""
    raise NotImplementedError("the commands of ignite-trainer come later; scripts/ has training scripts to copy")
