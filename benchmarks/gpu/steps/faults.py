"""Leaks and faults: 20,000 frames of changing sizes, open and close 200 times, out of memory and back."""

import gc
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.plan import Folders
from benchmarks.gpu.runs import engine_backends
from segpipe.runtime.cuda.device import OutOfMemoryError, open_device
from segpipe.runtime.segmenter import Segmenter

_FRAMES, _OPENINGS = 20_000, 200
_LEAK_BYTES = 64 * 2**20  # the driver and PyTorch keep some of what they once took
_SIZES = ((96, 128), (160, 240), (360, 480), (33, 517))


def run(folders: Folders) -> dict[str, Any]:
    """Free device memory before and after; every engine of the demo run."""
    path = folders.work / "demo"
    assert path.is_dir(), "the step `demo` must run first"
    return {backend: _checked(path, backend) for backend in engine_backends(path)}


def _checked(path: Path, backend: str) -> dict[str, Any]:
    frames = [np.random.default_rng(n).integers(0, 256, (*size, 3), np.uint8) for n, size in enumerate(_SIZES)]
    with Segmenter.open(path, backend, allow_unvalidated=True) as segmenter:
        for _ in range(200):
            segmenter(frames)
        before = _free()
        for number in range(_FRAMES):
            segmenter(frames[number % len(frames)])
        grown = before - _free()
    assert grown < _LEAK_BYTES, f"{grown / 2**20:.0f} MiB of device memory are gone after {_FRAMES} frames"
    return {"grown_bytes": grown, "openings_leak_bytes": _open_often(path, backend), **_exhausted(path, backend)}


def _open_often(path: Path, backend: str) -> int:
    before = 0
    for number in range(_OPENINGS):
        Segmenter.open(path, backend, allow_unvalidated=True).close()
        if number == 10:
            before = _free()
    leaked = before - _free()
    assert leaked < _LEAK_BYTES, f"{leaked / 2**20:.0f} MiB are gone after opening {_OPENINGS} times"
    return leaked


def _exhausted(path: Path, backend: str) -> dict[str, Any]:
    """Take all device memory, ask for a large frame, give it back, ask again."""
    device, held = open_device(), []
    large = np.zeros((4096, 8192, 3), np.uint8)
    with Segmenter.open(path, backend, allow_unvalidated=True) as segmenter:
        segmenter(np.zeros((160, 240, 3), np.uint8))
        with device.current():
            size = 2**30
            while size >= 2**22:
                try:
                    held.append(device.allocate(size))
                except OutOfMemoryError:
                    size //= 2
        try:
            segmenter(large)
            said = "it fitted nevertheless"
        except OutOfMemoryError as error:
            said = str(error)
        with device.current():
            for pointer in held:
                device.free(pointer)
        assert segmenter(large).shape == (4096, 8192), "the segmenter must work again"
    return {"out_of_memory": said}


def _free() -> int:
    gc.collect()
    device = open_device()
    with device.current():
        return device.free_memory_bytes()
