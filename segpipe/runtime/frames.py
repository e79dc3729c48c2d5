"""What people hand over as a frame, turned into the HxWxC array in RGB order that the runtime works on.

The same picture gives the same pixels, whichever way it comes; nothing is converted that loses anything.
"""

from typing import TYPE_CHECKING, Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import FrameContract
from segpipe.errors import InputError
from segpipe.runtime.preprocess import check_frame

if TYPE_CHECKING:
    from segpipe.media.pictures import Fits, Picture

    class SupportsDlpack(Protocol):
        """Tensors of PyTorch, CuPy, JAX."""

        def __dlpack_device__(self) -> Any: ...
        def __dlpack__(self) -> Any: ...

    class SupportsArray(Protocol):
        """Whatever numpy can read."""

        def __array__(self) -> NDArray[Any]: ...

    class OnGpu(Protocol):
        """Arrays of CuPy, Numba, PyTorch in a GPU's memory."""

        @property
        def __cuda_array_interface__(self) -> Any: ...

    Frame = NDArray[Any] | SupportsDlpack | SupportsArray | OnGpu | Picture

Order = Literal["rgb", "bgr"]
"""Of the three channels of arrays; files and PIL images know theirs."""

_FOREIGN = (ArithmeticError, AttributeError, BufferError, LookupError, RuntimeError, TypeError, ValueError)
"""What the code of other libraries' arrays raises."""
_ON_HOST = (1, 3)  # what DLPack calls the host's memory, and memory that is page-locked


def lies_on_gpu(frame: Any) -> bool:
    """Whether this is an array in a GPU's memory, of whatever library."""
    if isinstance(frame, np.ndarray):
        return False
    if hasattr(frame, "__cuda_array_interface__"):
        return True
    return hasattr(frame, "__dlpack_device__") and _dlpack_device(frame) not in _ON_HOST


def require_order(order: Order, contract: FrameContract) -> None:
    """Refuse an order that says nothing of a network's frames."""
    if order not in {"rgb", "bgr"}:
        raise InputError(f"order is {order!r}", hint="use 'rgb' or 'bgr'")
    if order == "bgr" and (contract.channels != 3 or contract.channel_order == "as_is"):
        raise InputError(
            f"order 'bgr' is for frames in colour, this network takes {contract.channels} channels as they are",
            hint="leave order out",
        )


def pixel_limit(pixels: int, hint: str) -> "Fits":
    """Frames of so many pixels and no more."""

    def fits(height: int, width: int) -> None:
        if height * width > pixels:
            raise InputError(f"the frame is {height}x{width}, more than {pixels} pixels", hint=hint)

    return fits


def check_device_frame(frame: Any, contract: FrameContract, order: Order) -> Any:
    """An array on the GPU, of whatever library, with the contract's shape and type; returned as it is."""
    wanted = f"{contract.dtype} HxWx{contract.channels}"
    shape, dtype = tuple(frame.shape), str(frame.dtype).rpartition(".")[2]  # torch.uint8
    if len(shape) != 3 or shape[2] != contract.channels or dtype != contract.dtype or 0 in shape:
        found = "x".join(map(str, shape))
        raise InputError(f"the frame is {dtype} {found}, the contract wants {wanted}", hint=f"pass {wanted}")
    if order == "bgr":
        raise InputError(
            "the frame lies on the GPU, where order 'bgr' is not known",
            hint="open with order='rgb' and pass frame.flip(-1)",
        )
    return frame


def pixels_of(frame: Any, contract: FrameContract, order: Order, fits: "Fits") -> NDArray[Any]:
    """A frame on the host as HxWxC of the contract's type, in RGB order, or an error that says what was wanted."""
    if frame is None:
        raise InputError(
            "the frame is None", hint="cv2.imread gives None for a file that it cannot read: is the path right?"
        )
    if isinstance(frame, np.ma.MaskedArray):
        raise InputError("the frame is a masked array, whose mask would be lost", hint="pass frame.filled(value)")
    if isinstance(frame, np.ndarray):
        return in_order(check_frame(frame, contract), order)
    if lies_on_gpu(frame):
        raise InputError("the frame lies in a GPU's memory, here it is wanted on the host", hint="pass frame.cpu()")
    if hasattr(frame, "__dlpack_device__"):
        return in_order(check_frame(_by_dlpack(frame, contract), contract), order)
    from segpipe.media import pictures  # PIL loads here: whoever hands over arrays can do without

    if pictures.is_picture(frame):
        return check_frame(pictures.picture_pixels(frame, contract, fits), contract)
    if hasattr(frame, "__array__") or hasattr(frame, "__array_interface__"):
        return in_order(check_frame(_by_numpy(frame), contract), order)
    raise InputError(
        f"a frame is an array, a PIL image, a path or an encoded image, got {type(frame).__name__}",
        hint=f"pass {contract.dtype} HxWx{contract.channels}",
    )


def in_order(pixels: NDArray[Any], order: Order) -> NDArray[Any]:
    """From RGB to this order, or from it to RGB."""
    if order == "rgb":
        return pixels
    return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_BGR2RGB)


def _dlpack_device(tensor: Any) -> int:
    """The kind of memory, as DLPack counts them."""
    try:
        return int(tensor.__dlpack_device__()[0])
    except _FOREIGN as error:
        raise InputError(f"the tensor does not say where it lies: {error}", hint="pass it as numpy array") from None


def _by_numpy(array: Any) -> NDArray[Any]:
    try:
        return np.asarray(array)
    except _FOREIGN as error:
        raise InputError(f"numpy cannot read the {type(array).__name__}: {error}", hint="pass a numpy array") from None


def _by_dlpack(tensor: Any, contract: FrameContract) -> NDArray[Any]:
    """A tensor of another library, not copied. Of planes that could also be rows nobody knows which they are."""
    try:
        pixels = np.from_dlpack(tensor)
    except _FOREIGN as error:
        raise InputError(f"numpy cannot read the tensor: {error}", hint="pass tensor.detach().numpy()") from None
    if pixels.ndim == 3 and pixels.shape[0] == pixels.shape[2] == contract.channels:
        shape = "x".join(map(str, pixels.shape))
        raise InputError(f"a tensor of {shape} is HxWxC or CxHxW", hint="pass it as numpy array, HxWxC")
    return pixels
