"""The parts of scripts/bench.py: what is measured, by file."""
