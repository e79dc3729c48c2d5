"""A GPU opened by whichever of the two providers is installed; one object a process for each."""

import threading
from collections.abc import Callable
from typing import Literal

from segpipe.errors import BackendMissingError
from segpipe.runtime.cuda.device import Device

Provider = Literal["auto", "pycuda", "cuda-python"]
_opened: dict[tuple[Callable[[int], Device], int], Device] = {}
_opening = threading.Lock()


def open_device(index: int = 0, provider: Provider = "auto") -> Device:
    """A GPU by PyCUDA where it is installed, else by cuda-python; one object a process for each."""
    kind = _provider(provider)
    with _opening:
        if (kind, index) not in _opened:
            _opened[kind, index] = kind(index)
        return _opened[kind, index]


def _provider(provider: Provider) -> Callable[[int], Device]:
    if provider != "cuda-python":
        try:
            from segpipe.runtime.cuda.by_pycuda import PyCudaDevice
        except ImportError as error:
            if provider == "pycuda":
                message = f"PyCUDA cannot be imported: {error}"
                raise BackendMissingError(
                    message, hint="pip install 'segpipe[pycuda]', or cuda='cuda-python'"
                ) from error
        else:
            return PyCudaDevice
    try:
        from segpipe.runtime.cuda.by_cuda_python import CudaPythonDevice
    except ImportError as error:
        message = f"cuda-python cannot be imported: {error}"
        raise BackendMissingError(message, hint="pip install 'segpipe[cuda]'") from error
    return CudaPythonDevice
