"""``python -m ignite_trainer``: the same as ``ignite-trainer``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
