"""The ladder for people: a line a candidate, what is kept and why."""

from collections.abc import Iterator

from segpipe.errors import word
from stages.ladder.candidates import Candidate
from stages.ladder.climb import Outcome

COLUMNS = ["rung", "backend", "mIoU", "lost (95 %)", "MACs", "MB", "ms a frame (95 %)", "gate", ""]
_OVER = {"latency": "too slow", "macs": "too many MACs", "size": "too large"}


def rows(outcome: Outcome) -> list[list[str]]:
    """In the order of the ladder."""
    return [_row(candidate, outcome) for candidate in outcome.candidates]


def remarks(outcome: Outcome) -> Iterator[str]:
    """What is kept and how to open it; what could not be made, and what makes the times doubtful."""
    for doubt in outcome.doubts:
        yield f"warning     {doubt}: times are too long, and the ladder may go further down than it has to"
    for rung, why in outcome.troubles.items():
        yield f"not made    {rung}: {why}"
    if (kept := outcome.kept) is None:
        return
    fits = sum(_end(one, outcome) in {"fits", "kept"} for one in outcome.candidates)
    among = "the only one that passed the gate and fits" if fits == 1 else f"the most accurate of {fits} that fit"
    yield f"kept        {kept.path}, {kept.backend}: {among} {outcome.terms.budget.plain()}"
    yield f"next        segpipe predict {word(kept.path)} FILE... --backend {kept.backend}"


def _row(candidate: Candidate, outcome: Outcome) -> list[str]:
    drop, speed = candidate.drop, candidate.speed
    return [
        candidate.rung,
        candidate.backend,
        f"{candidate.miou:.4f}",
        "" if drop is None else f"{drop.value:+.4f} ({drop.low:+.4f} to {drop.high:+.4f})",
        f"{candidate.macs_share:.0%}",
        f"{candidate.size_bytes / 1e6:.3g}",
        f"{speed.p50_ms:.2f} ({speed.low_ms:.2f} to {speed.high_ms:.2f})",
        "closed" if candidate.why_closed else "passed",
        _end(candidate, outcome),
    ]


def _end(candidate: Candidate, outcome: Outcome) -> str:
    budget = outcome.terms.budget
    if candidate is outcome.kept:
        return "kept"
    if candidate.cost(budget.kind) > budget.limit:
        return _OVER[budget.kind]
    return "" if candidate.why_closed else "fits"
