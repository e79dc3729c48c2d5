"""Whether this machine has a GPU, asked of the driver."""

import ctypes


def has_gpu() -> bool:
    """A driver that starts, and at least one device."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
