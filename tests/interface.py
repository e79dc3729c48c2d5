"""Device memory of another library, by `__cuda_array_interface__`."""

from typing import Any

from numpy.typing import NDArray


class Interface:
    """Host memory that says of itself that it is a GPU's."""

    def __init__(self, array: NDArray[Any], **extra: Any) -> None:
        self.shape, self.dtype, self._array = array.shape, array.dtype, array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, True),
            "strides": array.strides,
            "version": 3,
            **extra,
        }
