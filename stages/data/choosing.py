"""Which images of a split are looked at: the gate's, and those that nothing is judged by."""

from collections.abc import Sequence

import numpy as np

_SEED = 1


def chosen(count: int, wanted: int) -> list[int]:
    """Which images: all, or as many as wanted, the same ones every time."""
    if wanted >= count:
        return list(range(count))
    return sorted(np.random.default_rng(_SEED).permutation(count)[:wanted].tolist())


def spread(among: Sequence[int], wanted: int) -> list[int]:
    """As many as wanted, or all, evenly over those that there are: neighbours of a video are alike."""
    if not among or wanted >= len(among):
        return list(among)
    return [among[round(place)] for place in np.linspace(0, len(among) - 1, wanted)]
