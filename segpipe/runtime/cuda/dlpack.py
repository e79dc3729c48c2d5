"""DLPack by ctypes: reading other people's arrays without a copy, and handing out ours."""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from segpipe.errors import InputError

CUDA = (2, 13)
"""kDLCUDA and kDLCUDAManaged."""
_UNUSED = b"dltensor"
_CODES = {0: "i", 1: "u", 2: "f"}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


@dataclass(frozen=True)
class View:
    """Somebody's memory. `owner` keeps it alive."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In bytes."""
    dtype: np.dtype[Any]
    device_id: int
    owner: object


def read_capsule(capsule: object) -> View:
    """What a DLPack capsule describes. The capsule stays unconsumed: it frees the memory when it goes."""
    address = _python.PyCapsule_GetPointer(capsule, _UNUSED)
    tensor = _Managed.from_address(address).tensor
    if tensor.code not in _CODES or tensor.lanes != 1:
        raise InputError(f"a frame of DLPack type {tensor.code} is not an image", hint="pass uint8, uint16 or float32")
    dtype = np.dtype(f"{_CODES[tensor.code]}{tensor.bits // 8}")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(step * dtype.itemsize for step in tensor.strides[: tensor.ndim]) if tensor.strides else None
    pointer = (tensor.data or 0) + tensor.byte_offset
    return View(pointer, shape, strides or packed_strides(shape, dtype), dtype, tensor.device_id, capsule)


def packed_strides(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Bytes from one element to the next along each axis of a packed array."""
    return tuple(int(np.prod(shape[axis + 1 :], dtype=np.int64)) * dtype.itemsize for axis in range(len(shape)))


def write_capsule(view: View, device_type: int) -> object:
    """A capsule over packed memory; `view.owner` lives until its consumer is done."""
    shape = (ctypes.c_int64 * len(view.shape))(*view.shape)
    code = {letter: number for number, letter in _CODES.items()}[view.dtype.kind]
    managed = _Managed(
        _Tensor(
            view.pointer, device_type, view.device_id, len(view.shape), code, view.dtype.itemsize * 8, 1,
            ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64)), None, 0,
        ),
        None,
        _release,
    )  # fmt: skip
    address = ctypes.addressof(managed)
    _lent[address] = (managed, shape, view.owner)
    return _python.PyCapsule_New(address, _UNUSED, _forget)


_lent: dict[int, tuple[Any, ...]] = {}  # what consumers of our capsules hold


def _take_back(address: int) -> None:
    """A consumer is done."""
    _lent.pop(address, None)


def _drop_capsule(capsule: int) -> None:
    """A capsule is going; when nobody consumed it, so is what it describes."""
    if _python_raw.PyCapsule_IsValid(capsule, _UNUSED):
        _lent.pop(_python_raw.PyCapsule_GetPointer(capsule, _UNUSED), None)


_python = ctypes.PyDLL(None)
_python.PyCapsule_GetPointer.argtypes, _python.PyCapsule_GetPointer.restype = (
    (ctypes.py_object, ctypes.c_char_p),
    ctypes.c_void_p,
)
_python.PyCapsule_New.argtypes, _python.PyCapsule_New.restype = (
    (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p),
    ctypes.py_object,
)
_python_raw = ctypes.PyDLL(None)  # the same functions for a capsule that is being destroyed
_python_raw.PyCapsule_IsValid.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_python_raw.PyCapsule_GetPointer.argtypes, _python_raw.PyCapsule_GetPointer.restype = (
    (ctypes.c_void_p, ctypes.c_char_p),
    ctypes.c_void_p,
)
_release, _forget = _Deleter(_take_back), _Deleter(_drop_capsule)
