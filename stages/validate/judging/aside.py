"""Keeps the gate small: large scores that are only looked at again in the end lie in files."""

import tempfile
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.validate.hops.hop import Answered
from stages.validate.hops.kept import WHOLE


def set_aside(answered: Answered) -> Answered:
    """The same answer, its large scores in a file without a name, which is read where somebody looks at them."""
    scores = answered.scores
    if scores is None or scores.size <= WHOLE or isinstance(scores, np.memmap):
        return answered
    return replace(answered, scores=_in_a_file(scores))


def _in_a_file(scores: NDArray[Any]) -> NDArray[Any]:
    """As they are where there is no room for a file."""
    try:
        with tempfile.TemporaryFile() as file:
            file.write(np.ascontiguousarray(scores).data)
            file.flush()
            return np.memmap(file, scores.dtype, "r", shape=scores.shape)
    except OSError:
        return scores
