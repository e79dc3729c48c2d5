"""GpuBackend: frames to answers on a GPU, whoever runs the engine. Splits lists into jobs and finds each a lane."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from numpy.typing import NDArray

from segpipe.errors import BackendError
from segpipe.runtime.cuda.arrays import is_on_device
from segpipe.runtime.cuda.device import Device
from segpipe.runtime.cuda.engine import divide
from segpipe.runtime.cuda.job import GpuJob
from segpipe.runtime.cuda.lane import Lane, Parts
from segpipe.runtime.cuda.pinned import PinnedFrames
from segpipe.runtime.cuda.plan import input_shape
from segpipe.runtime.cuda.pool import Pool
from segpipe.runtime.cuda.spare import Spare
from segpipe.runtime.request import Outputs, StepTimes

_SIZES = 256  # kinds of frames whose job is remembered
_WARM_RUNS = 2  # the first loads what the engine and the kernels need, the second is captured


class GpuBackend:
    """Safe to call from several threads: each gets its own stream, buffers and graphs."""

    def __init__(self, name: str, device: Device, parts: Parts, lanes: int) -> None:
        self.name = name
        self.device = device.name
        self._gpu, self._parts = device, parts
        self._closed = False
        self._spare, self._pinned = Spare(device), PinnedFrames(device)
        self._pool = Pool(lambda: Lane(device, parts, self._spare), lanes)
        self._single: dict[tuple[int, int, bool, int, Outputs], GpuJob] = {}

    def infer(self, frames: Sequence[Any], outputs: Outputs) -> list[Any]:
        """Checked HxWxC frames of any sizes, on the host or on this GPU, to results in the same order."""
        if self._closed:
            raise BackendError("this backend is closed", hint="open the run again")
        if len(frames) == 1:
            job = self._job_of(frames[0], outputs)
            with self._gpu.current():
                return self._pool.run(partial(_run, frames=frames, job=job))
        jobs = [*self._jobs(frames, outputs)]  # a frame that does not fit is refused before any is run
        results: dict[int, Any] = {}
        with self._gpu.current():
            for job, indices in jobs:
                some = [frames[index] for index in indices]
                results.update(zip(indices, self._pool.run(partial(_run, frames=some, job=job)), strict=True))
        return [results[index] for index in range(len(frames))]

    def pinned_frame(self, height: int, width: int) -> NDArray[Any]:
        """Page-locked memory for a frame that is then uploaded from where it lies."""
        contract = self._parts.contract
        with self._gpu.current():
            return self._pinned.make((height, width, contract.channels), contract.dtype)

    def warm_up(self, frames: Sequence[Any], lanes: int) -> None:
        """Let real frames like these only be replayed, on so many threads at once as memory allows."""
        jobs = [*self._jobs(frames, Outputs())]

        def work(lane: Lane) -> None:
            for job, indices in jobs:
                for _ in range(_WARM_RUNS):
                    lane.run([frames[index] for index in indices], job)

        with self._gpu.current():
            self._pool.warm(lanes, work)

    def time_steps(self, frame: Any) -> StepTimes:
        """Where the time of one frame on the host goes, by the GPU's clock."""
        job = self._job_of(frame, Outputs())
        with self._gpu.current():
            return self._pool.run(lambda lane: lane.time_steps(frame, job))

    def describe(self) -> dict[str, Any]:
        """Device, provider, engine and what the idle lanes hold."""
        major, minor = self._gpu.capability
        profiles = self._parts.engine.profiles
        return {
            "compute_capability": f"{major}.{minor}",
            "cuda": self._gpu.provider,
            "lanes": self._pool.describe(),
            "batches": [[profile.smallest[0], profile.largest[0]] for profile in profiles],
            **self._parts.engine.describe(),
        }

    def close(self) -> None:
        """Wait for the frames at work, then free everything; twice is harmless."""
        if self._closed:
            return
        self._closed = True
        with self._gpu.current():
            self._pool.close()
            self._spare.close()
            self._pinned.close()
            self._parts.engine.close()
            self._parts.kernels.close()

    def _job_of(self, frame: Any, outputs: Outputs) -> GpuJob:
        """One frame's job, from memory where there was one like it."""
        height, width = frame.shape[:2]
        pinned = self._pinned.address_of(frame)
        kind = int(height), int(width), is_on_device(frame, self._gpu), pinned, outputs
        job = self._single.get(kind)
        if job is None:
            ((job, _),) = self._jobs([frame], outputs)
            job = replace(job, pinned=pinned)
            if len(self._single) >= _SIZES:
                self._single.clear()
            self._single[kind] = job
        return job

    def _jobs(self, frames: Sequence[Any], outputs: Outputs) -> Iterator[tuple[GpuJob, list[int]]]:
        """Frames of one size and place belong together, as many as the engine takes at once."""
        groups: dict[tuple[int, int, bool], list[int]] = {}
        for index, frame in enumerate(frames):
            height, width = frame.shape[:2]
            groups.setdefault((int(height), int(width), is_on_device(frame, self._gpu)), []).append(index)
        contract = self._parts.contract
        for (height, width, on_device), indices in groups.items():
            item = input_shape(contract, contract.place(height, width), 1)[1:]
            start = 0
            for count, batch in divide(self._parts.engine.profiles, item, len(indices)):
                yield GpuJob(height, width, count, batch, on_device, outputs), indices[start : start + count]
                start += count


def _run(lane: Lane, frames: Sequence[Any], job: GpuJob) -> list[Any]:
    return lane.run(frames, job)
