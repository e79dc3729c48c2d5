"""What Ctrl-C ends with. Light: it is imported before anything else."""

import sys

INTERRUPTED = 130


def say_interrupted() -> int:
    """Print one line; returns the exit code."""
    print("interrupted; the same command goes on from here", file=sys.stderr)
    return INTERRUPTED
