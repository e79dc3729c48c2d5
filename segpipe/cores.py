"""How many cores there are to work with. A container or `taskset` may leave fewer than the machine has."""

import os


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
