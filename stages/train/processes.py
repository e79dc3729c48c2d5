"""Several processes on one training: which of them this is. Light: reads what torchrun and Lightning set."""

import os


def rank() -> int:
    """Number of this process among all of the training; 0 alone writes to the run directory."""
    for name in ("RANK", "LOCAL_RANK"):
        if value := os.environ.get(name):
            return int(value)
    return 0
