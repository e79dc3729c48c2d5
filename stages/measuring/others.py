"""What else the machine was doing while something was measured. Reads /proc; imports nothing heavy."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_BUSY = 0.1  # share of the processor taken by other work from which figures are doubtful


@dataclass(frozen=True)
class Moment:
    """Processor time spent up to now, by everybody and by this process, in seconds of one core."""

    wall: float
    busy: float
    own: float

    @staticmethod
    def now() -> "Moment":
        """Read the counters."""
        fields = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        idle = fields[3] + fields[4]
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        return Moment(time.monotonic(), (sum(fields) - idle) / os.sysconf("SC_CLK_TCK"), own)


def others_share(start: Moment, end: Moment) -> float:
    """Share of all cores that other processes (and, on a virtual machine, other guests) had between two moments."""
    wall = (end.wall - start.wall) * (os.cpu_count() or 1)
    others = (end.busy - start.busy) - (end.own - start.own)
    return round(min(1.0, max(0.0, others / wall)), 3) if wall > 0 else 0.0


def load_warnings(share: float) -> tuple[str, ...]:
    """Say when other work had a part in the figures."""
    if share < _BUSY:
        return ()
    return (f"other work had {share:.0%} of the processor while this was measured",)
