"""Peak memory of a process that only segments: `python -m stages.benchmark.memory RUN BACKEND FRAMES THREADS`."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from segpipe.errors import BackendError
from segpipe.runtime.by_task import open_segmenter
from stages.benchmark import nvml
from stages.benchmark.contestants import Scene
from stages.results.benchmark import Memory

_TIMEOUT_S = 120


def peak(run: Path, backend: str, scene: Scene, gpu: nvml.Watch) -> Memory:
    """In a process of its own: in this one PyTorch and the peers would be counted too."""
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder, "frames.npz")
        np.savez(frames, *scene.frames)
        words = (str(run.resolve()), backend, str(frames), str(scene.threads))
        command = [sys.executable, "-m", "stages.benchmark.memory", *words]
        home = Path(__file__).parents[2]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, cwd=home)
        except subprocess.TimeoutExpired:
            raise BackendError(f"no answer in {_TIMEOUT_S} s", hint="measure on a machine with less load") from None
    if done.returncode != 0:
        raise BackendError(f"the process failed: {done.stderr.strip()[-200:]}", hint="run `segpipe predict`")
    before, after, device = json.loads(done.stdout.splitlines()[-1])
    return Memory(host_before_bytes=before, host_peak_bytes=after, device_peak_bytes=device)


def _high_water_bytes() -> int:
    """The kernel's own mark; getrusage's would begin with the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _main(run: str, backend: str, frames: str, threads: str) -> None:
    before = _high_water_bytes()
    loaded = list(np.load(frames).values())
    with open_segmenter(Path(run), backend, threads=int(threads), allow_unvalidated=True) as segmenter:
        for frame in loaded:
            segmenter(frame)
        device = nvml.watch().own_bytes()
    print(json.dumps([before, _high_water_bytes(), device]))


if __name__ == "__main__":
    _main(*sys.argv[1:5])
