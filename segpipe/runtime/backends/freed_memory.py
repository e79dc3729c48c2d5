"""What the C library keeps of freed memory, handed back to the system."""

import ctypes


def give_back() -> None:
    """Where the C library can. Of several networks' tensors of many megabytes it would keep what each has freed, in
    pieces that fit nothing else."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
