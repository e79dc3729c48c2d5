"""What our Python costs a frame on a GPU's path: microseconds a call, on the driver of host memory.

    python -m benchmarks.frame_overhead [OTHER_CHECKOUT ...]

The network only copies, kernels do nothing and frames are small: what is left is Python and the bindings. Checkouts
take turns in one run. A busy machine only adds to a call, so the fastest turn's median is the figure.
"""

import ctypes
import os
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TURNS, CALLS = 7, 2000
SIZE = (64, 96)


def main() -> None:
    """A line for each provider and checkout."""
    from tests.host_driver.build import environment

    checkouts, run = [ROOT, *(Path(name).resolve() for name in sys.argv[1:])], environment()
    for provider in ("cuda-python", "pycuda"):
        taken: dict[Path, list[float]] = {checkout: [] for checkout in checkouts}
        for _ in range(TURNS):
            for checkout, medians in taken.items():
                search = os.pathsep.join([str(checkout), *sys.path[1:]])
                command = [sys.executable, __file__, "--child", provider]
                turn = subprocess.run(
                    command, env=run | {"PYTHONPATH": search, "HOST_DRIVER_IDLE": "1"}, capture_output=True, check=True
                )
                medians.append(float(turn.stdout))
        for checkout, medians in taken.items():
            print(f"{provider:12} {min(medians):6.1f} us a call  {checkout}")


class Copying:
    """An engine that copies its input to its output; as this checkout asks for one, or an earlier one."""

    input_dtype = output_dtype = "float32"
    output_dtypes = {"logits": "float32"}  # noqa: RUF012
    batches = (1, 4)
    scratch_bytes = 0

    def __init__(self, device: Any) -> None:
        self._device = device
        self.size_bytes = 0
        self.describe: Any = dict

    @property
    def profiles(self) -> Any:
        """Any size."""
        from segpipe.runtime.cuda.engine import Profile

        return [Profile((1, 1, 1, 1), (4, 3, 4096, 4096))]

    def context(self) -> "Copying":
        """It is its own."""
        return Copying(self._device)

    def set_shape(self, shape: tuple[int, ...], stream: int) -> Any:
        """The same."""
        self.size_bytes = prod(shape) * 4
        return {"logits": shape} if find_spec("segpipe.runtime.cuda.decoding") else shape

    def is_capturable(self, stream: int) -> bool:
        """A copy is."""
        return True

    def enqueue(self, source: int, target: Any, *others: int) -> None:
        """On the stream, which comes last."""
        self._device.copy(target if isinstance(target, int) else target["logits"], source, self.size_bytes, others[-1])

    def close(self) -> None:
        """Nothing to free."""


def measured(provider: Any) -> float:
    """Median microseconds of a call, of frames that are replayed."""
    import numpy as np

    from segpipe.contract.schema import Contract
    from segpipe.runtime.cuda.backend import GpuBackend
    from segpipe.runtime.cuda.kernels import Kernels
    from segpipe.runtime.cuda.lane import Parts
    from segpipe.runtime.cuda.opening import open_device
    from segpipe.runtime.segmenter import Segmenter

    sys.setdlopenflags(os.RTLD_LAZY)
    ctypes.CDLL(os.environ["SEGPIPE_HOST_DRIVER"], ctypes.RTLD_GLOBAL)
    device, contract = open_device(0, provider), Contract(classes=("a", "b", "c"), network_size=SIZE, output_stride=1)
    with device.current():
        kernels = Kernels(device, {"kernels.ptx": b"kernels"})
    segmenter = Segmenter(
        GpuBackend("host", device, Parts(Copying(device), contract, kernels), 1), contract, [(0, 0, 0)] * 3
    )
    frame, taken = np.zeros((*SIZE, 3), np.uint8), []
    for _ in range(CALLS):
        started = time.perf_counter_ns()
        segmenter(frame)
        taken.append(time.perf_counter_ns() - started)
    segmenter.close()
    return statistics.median(taken[CALLS // 10 :]) / 1e3


if __name__ == "__main__":
    if "--child" in sys.argv:
        print(measured(sys.argv[-1]))
    else:
        main()
