"""The fewest FP32 islands that pass: grows a set until every limit holds, then takes away what it can do without."""

from collections.abc import Callable
from dataclasses import dataclass

from segpipe.errors import GateFailedError

MAX_ISLANDS = 12  # more, and FP32 is the honest answer

Islands = tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """One set of islands: the limits that failed, and the module to add."""

    islands: Islands
    failed: tuple[str, ...]
    proposal: str = ""
    why: str = ""


Judge = Callable[[Islands], Trial]
"""Holds the FP16 hop with these islands to the gate's limits."""


def search(judge: Judge, first: Islands = ()) -> list[Trial]:
    """Add what the first divergence names until the gate passes, then take away what it can do without."""
    trials = [judge(first)]
    while trials[-1].failed:
        trials.append(judge(_grown(trials)))
    kept = trials[-1]
    for island in kept.islands if len(kept.islands) > 1 else ():
        without = tuple(name for name in kept.islands if name != island)
        trials.append(judge(without))
        if not trials[-1].failed:
            kept = trials[-1]
    if trials[-1] is not kept:
        trials.append(kept)
    return trials


def _grown(trials: list[Trial]) -> Islands:
    """The last islands and the proposed one; an island inside the new one goes."""
    last = trials[-1]
    grown = (*(name for name in last.islands if not name.startswith(f"{last.proposal}.")), last.proposal)
    if not last.proposal or last.proposal in last.islands or len(grown) > MAX_ISLANDS:
        raise GateFailedError(
            f"no FP32 islands make the FP16 hop pass; with {list(last.islands)}: {'; '.join(last.failed)}; {last.why}",
            hint="build with build.precision = 'fp32'",
        )
    return tuple(grown)
