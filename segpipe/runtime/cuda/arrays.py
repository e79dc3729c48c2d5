"""Arrays on the device: frames that come from torch or CuPy, and results that stay there."""

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.errors import InputError
from segpipe.runtime.cuda.device import LEGACY_STREAM, Device
from segpipe.runtime.cuda.dlpack import View, packed_strides, read_capsule, write_capsule
from segpipe.runtime.cuda.spare import Block, Spare


@dataclass(frozen=True)
class DeviceFrame:
    """An HxWxC frame in the GPU's memory, and the stream its contents are being made on (0: it is ready)."""

    view: View
    made_on: int


def is_on_device(frame: Any, device: Device) -> bool:
    """Whether a frame lies in this kind of device's memory."""
    if isinstance(frame, np.ndarray):
        return False
    if hasattr(frame, "__cuda_array_interface__"):
        return True
    return hasattr(frame, "__dlpack_device__") and frame.__dlpack_device__()[0] == device.dlpack_type


def read_frame(frame: Any, device: Device, stream: int) -> DeviceFrame:
    """A device frame as pointer and strides. With DLPack its producer orders `stream` behind its own work."""
    if hasattr(frame, "__dlpack_device__") and frame.__dlpack_device__()[0] == device.dlpack_type:
        found = DeviceFrame(read_capsule(frame.__dlpack__(stream=stream)), 0)
    else:
        found = _read_interface(frame, device.index)
    if found.view.device_id != device.index:
        raise InputError(
            f"the frame lies on GPU {found.view.device_id}, this segmenter runs on GPU {device.index}",
            hint="move the frame, or open with the other device",
        )
    return found


def _read_interface(frame: Any, index: int) -> DeviceFrame:
    interface = frame.__cuda_array_interface__
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    strides = interface.get("strides") or packed_strides(shape, dtype)
    view = View(int(interface["data"][0]), shape, tuple(strides), dtype, index, frame)
    # None says that the data is ready; a producer of version 2 says nothing, so wait for the default stream.
    made_on = interface["stream"] or 0 if "stream" in interface else LEGACY_STREAM
    return DeviceFrame(view, made_on)


class DeviceArray:
    """A packed array in the GPU's memory, complete when it is handed out. Speaks DLPack and `__cuda_array_interface__`.

    Its memory goes back to its backend when the last consumer lets go of it.
    """

    def __init__(
        self, device: Device, spare: Spare, block: Block, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self.nbytes = block.size_bytes
        self.pointer = block.pointer
        self._device, self._block = device, block
        weakref.finalize(self, spare.give_back, block).atexit = False  # then the process's memory goes anyway

    def to_host(self) -> NDArray[Any]:
        """A copy in the host's memory."""
        device, copy = self._device, np.empty(self.shape, self.dtype)
        with device.current():
            stream = device.create_stream()
            try:
                device.download(copy, self.pointer, stream)
                device.synchronize(stream)
            finally:
                device.destroy_stream(stream)
        return copy

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        self._block.readers.add(None)
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "version": 3,
            "strides": None,
            "stream": None,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device.dlpack_type, self._device.index

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None
    ) -> Any:
        """A capsule over this memory. The contents are complete, so no stream has to wait."""
        del max_version
        if copy or dl_device not in {None, self.__dlpack_device__()}:
            raise BufferError("this array is handed out as it is, where it is")
        self._block.readers.add(LEGACY_STREAM if stream is None else stream)  # what DLPack means by None
        view = View(
            self.pointer, self.shape, packed_strides(self.shape, self.dtype), self.dtype, self._device.index, self
        )
        return write_capsule(view, self._device.dlpack_type)
