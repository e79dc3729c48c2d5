"""What compiled code is given: numbers of one type, one after the other."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_plain(array: NDArray[Any], dtype: type[np.generic]) -> bool:
    """Whether an array is that."""
    return array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned
