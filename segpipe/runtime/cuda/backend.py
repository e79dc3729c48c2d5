"""GpuBackend: frames to masks on a GPU, whoever runs the engine. Splits lists into jobs and finds each a lane."""

from collections.abc import Iterator, Sequence
from typing import Any

from segpipe.errors import BackendError
from segpipe.runtime.cuda.arrays import is_on_device
from segpipe.runtime.cuda.device import Device
from segpipe.runtime.cuda.lane import Lane, Parts
from segpipe.runtime.cuda.plan import Job
from segpipe.runtime.cuda.pool import Pool
from segpipe.runtime.request import Outputs, Result, StepTimes


class GpuBackend:
    """Safe to call from several threads: each gets its own stream, buffers and graphs."""

    def __init__(self, name: str, device: Device, parts: Parts, lanes: int) -> None:
        self.name = name
        self.device = device.name
        self._gpu, self._engine, self._kernels = device, parts.engine, parts.kernels
        self._closed = False
        self._pool = Pool(lambda: Lane(device, parts), lanes)

    def infer(self, frames: Sequence[Any], outputs: Outputs) -> list[Result]:
        """Checked HxWxC frames of any sizes, on the host or on this GPU, to results in the same order."""
        if self._closed:
            raise BackendError("this backend is closed", hint="open the run again")
        results: dict[int, Result] = {}
        with self._gpu.current(), self._pool.lane() as lane:
            for job, indices in self._jobs(frames, outputs):
                found = lane.run([frames[index] for index in indices], job)
                results.update(zip(indices, found, strict=True))
        return [results[index] for index in range(len(frames))]

    def time_steps(self, frame: Any) -> StepTimes:
        """Where the time of one frame on the host goes, by the GPU's clock."""
        with self._gpu.current(), self._pool.lane() as lane:
            ((job, _),) = self._jobs([frame], Outputs())
            return lane.time_steps(frame, job)

    def describe(self) -> dict[str, Any]:
        """Device, provider, engine and what the idle lanes hold."""
        major, minor = self._gpu.capability
        return {
            "compute_capability": f"{major}.{minor}",
            "cuda": self._gpu.provider,
            "lanes": self._pool.describe(),
            **self._engine.describe(),
        }

    def close(self) -> None:
        """Wait for the frames at work, then free everything; twice is harmless."""
        if self._closed:
            return
        self._closed = True
        with self._gpu.current():
            self._pool.close()
            self._engine.close()
            self._kernels.close()

    def _jobs(self, frames: Sequence[Any], outputs: Outputs) -> Iterator[tuple[Job, list[int]]]:
        """Frames of one size and place belong together, as many as the engine takes at once."""
        groups: dict[tuple[int, int, bool], list[int]] = {}
        for index, frame in enumerate(frames):
            height, width = frame.shape[:2]
            groups.setdefault((int(height), int(width), is_on_device(frame, self._gpu)), []).append(index)
        largest = self._engine.batches[1]
        for (height, width, on_device), indices in groups.items():
            for start in range(0, len(indices), largest):
                chunk = indices[start : start + largest]
                yield Job(height, width, len(chunk), on_device, outputs), chunk
