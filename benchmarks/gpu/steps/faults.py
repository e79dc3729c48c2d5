"""Leaks and faults: 20,000 frames of changing sizes, open and close 200 times, out of memory and back."""

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.plan import Folders
from benchmarks.gpu.runs import finished_demo, gpu_backends
from segpipe.runtime.cuda.device import OutOfMemoryError
from segpipe.runtime.cuda.opening import open_device
from segpipe.runtime.segmenter import Segmenter

_FRAMES, _OPENINGS = 20_000, 200
_SETTLED = 10  # openings until libraries have what they keep
_OPENING_S = 50.0  # for all openings of one backend: some compile kernels every time
_LEAK_BYTES = 64 * 2**20  # the driver and PyTorch keep some of what they once took
_SIZES = ((96, 128), (160, 240), (360, 480), (33, 517))


def run(folders: Folders) -> Iterator[dict[str, Any]]:
    """Free device memory before and after; every GPU backend of the demo run."""
    path = finished_demo(folders)
    found: dict[str, dict[str, Any]] = {backend: {} for backend in gpu_backends(path)}
    for check in (_run_long, _exhaust, _open_often):
        for backend in found:
            found[backend] |= check(path, backend)
            yield found
    leaks = {(name, key): value for name, figures in found.items() for key, value in figures.items() if "leak" in key}
    assert max(leaks.values()) < _LEAK_BYTES, f"device memory is gone: {leaks}"


def _run_long(path: Path, backend: str) -> dict[str, Any]:
    frames = [np.random.default_rng(n).integers(0, 256, (*size, 3), np.uint8) for n, size in enumerate(_SIZES)]
    with Segmenter.open(path, backend, allow_unvalidated=True) as segmenter:
        for _ in range(200):
            segmenter(frames)
        before = _free()
        for number in range(_FRAMES):
            segmenter(frames[number % len(frames)])
        return {"frames": _FRAMES, "frames_leak_bytes": before - _free()}


def _open_often(path: Path, backend: str) -> dict[str, Any]:
    frame, before, number, end = np.zeros((*_SIZES[0], 3), np.uint8), 0, 0, time.monotonic() + _OPENING_S
    while number < _OPENINGS and time.monotonic() < end:
        with Segmenter.open(path, backend, allow_unvalidated=True) as segmenter:
            segmenter(frame)
        number += 1
        if number == _SETTLED:
            before = _free()
    assert number > _SETTLED, f"{backend} opened {number} times in {_OPENING_S:.0f} s, too seldom to see a leak"
    return {"openings": number, "openings_leak_bytes": before - _free()}


def _exhaust(path: Path, backend: str) -> dict[str, Any]:
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
        finally:
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
