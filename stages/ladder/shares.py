"""To which share of its multiplications a network is cut next, so that it costs what it may. Plain arithmetic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEP = 0.05
_AIM = 0.95
"""Of the limit: what is measured again comes out a little different."""
_FIXED = 0.3
"""Of the cost, what no cut makes smaller, as long as nothing is known: frames in and out, layers that stay."""


@dataclass(frozen=True)
class Try:
    """A share that was cut to, and what that cost; None where it cannot be cut so far."""

    share: float
    cost: float | None


def next_share(uncut: float, limit: float, tries: Sequence[Try]) -> float | None:
    """By a line through the last two costs that are known, in steps of 0.05; None when there is none left to try."""
    floor = max((one.share for one in tries if one.cost is None), default=0.0)
    ceiling = min((one.share for one in tries if one.cost is not None), default=1.0)
    known = [Try(1.0, uncut), *(one for one in tries if one.cost is not None)]
    guess = math.floor(round(_on_line(known, _AIM * limit) / _STEP, 6)) * _STEP
    share = round(min(max(guess, floor + _STEP), ceiling - _STEP), 2)
    return share if floor < share < ceiling else None


def _on_line(known: Sequence[Try], wanted: float) -> float:
    """The share at which a cost is to be expected."""
    last, cost = known[-1].share, known[-1].cost or 0.0
    if len(known) == 1:
        return last * (wanted / cost - _FIXED) / (1 - _FIXED)
    before = known[-2].cost or 0.0
    slope = (before - cost) / (known[-2].share - last)
    return last / 2 if slope <= 0 else last - (cost - wanted) / slope
