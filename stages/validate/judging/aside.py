"""Keeps the gate small: what is large and only looked at again in the end lies in files."""

import tempfile
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.validate.hops.hop import Answered
from stages.validate.hops.kept import WHOLE


def set_aside(answered: Answered) -> Answered:
    """The same answer, its large scores in a file without a name, which is read where somebody looks at them."""
    if answered.scores is None or answered.scores.size <= WHOLE:
        return answered
    return replace(answered, scores=array_aside(answered.scores))


def array_aside(values: NDArray[Any]) -> NDArray[Any]:
    """The same numbers; small ones, and all where there is no room for a file, as they are."""
    if values.size <= WHOLE or isinstance(values, np.memmap):
        return values
    try:
        with tempfile.TemporaryFile() as file:
            file.write(np.ascontiguousarray(values).data)
            file.flush()
            return np.memmap(file, values.dtype, "r", shape=values.shape)
    except OSError:
        return values
