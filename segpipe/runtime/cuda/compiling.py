"""kernels.cu to machine code by NVRTC: no GPU and no compiler needed, only the cuda-bindings and CUDA's headers."""

import importlib.util
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from segpipe.errors import BackendMissingError, BuildError

SOURCE = Path(__file__).with_name("kernels.cu")
CAPABILITIES = ("75", "80", "86", "89", "90", "100", "120")
"""Compute capabilities with machine code of their own; PTX of the first serves every other."""
PTX = "ptx"
_INSTALL = "pip install 'segpipe[cuda]'"


@cache
def compile_kernel(target: str, source: str = "") -> bytes:
    """Machine code for one compute capability ('90'), or PTX for 'ptx'."""
    nvrtc = _nvrtc()
    architecture = f"compute_{CAPABILITIES[0]}" if target == PTX else f"sm_{target}"
    options = [f"--gpu-architecture={architecture}", "--std=c++17", "--fmad=true"]
    options += [f"--include-path={folder}" for folder in include_folders()]
    text = source or SOURCE.read_text()
    program = _call(nvrtc, nvrtc.nvrtcCreateProgram(text.encode(), b"kernels.cu", 0, [], []))
    try:
        encoded = [option.encode() for option in options]
        status = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)[0]
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise BuildError(f"kernels.cu does not compile for {architecture}: {_log(nvrtc, program)}")
        return _result(nvrtc, program, target)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def include_folders() -> list[str]:
    """Where CUDA's headers lie: in NVIDIA's wheels, or in an installed toolkit."""
    return [str(folder) for folder in _candidates() if (folder / "cuda_fp16.h").is_file()]


def _candidates() -> Iterator[Path]:
    spec = importlib.util.find_spec("nvidia")
    for root in spec.submodule_search_locations or [] if spec else []:
        yield from sorted(Path(root).glob("*/include"), reverse=True)
    for variable in ("CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"):
        if folder := os.environ.get(variable):
            yield Path(folder) / "include"
    yield Path("/usr/local/cuda/include")


def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise BackendMissingError(f"NVRTC cannot be imported: {error}", hint=_INSTALL) from error
    try:
        nvrtc.nvrtcVersion()  # loads the library itself, which is a package of its own
    except RuntimeError as error:
        message = f"NVRTC's library is missing: {error}"
        raise BackendMissingError(message, hint="pip install nvidia-cuda-nvrtc nvidia-cuda-runtime") from error
    return nvrtc


def _result(nvrtc: Any, program: Any, target: str) -> bytes:
    size, read = (
        (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX) if target == PTX else (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
    )
    image = bytearray(_call(nvrtc, size(program)))
    _call(nvrtc, read(program, image))
    return bytes(image)


def _log(nvrtc: Any, program: Any) -> str:
    text = bytearray(_call(nvrtc, nvrtc.nvrtcGetProgramLogSize(program)))
    _call(nvrtc, nvrtc.nvrtcGetProgramLog(program, text))
    return bytes(text).rstrip(b"\0").decode(errors="replace").strip()


def _call(nvrtc: Any, answer: tuple[Any, ...]) -> Any:
    """Check the status every NVRTC function returns first; the value, when there is one."""
    status, *values = answer
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise BuildError(f"NVRTC failed: {status.name}", hint=_INSTALL)
    return values[0] if values else None
