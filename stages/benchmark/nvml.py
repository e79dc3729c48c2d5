"""A GPU's clocks, temperature, power, throttling and energy, by nvidia-ml-py. Where they cannot be read it says why."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

from segpipe.runtime.cuda.driver_library import gpu_name
from stages.results.benchmark import GpuState

_CLOCK_MOVED = 0.05  # share by which a clock may differ between two moments before figures are doubtful
_HARMLESS = 0x1 | 0x2  # idle, and clocks set by the user


class Watch:
    """One GPU's sensors. Without NVML every answer is None and `unread` says why."""

    def __init__(self, nvml: Any, device: Any, unread: str = "") -> None:
        self._nvml, self._device, self.unread = nvml, device, unread

    def state(self, when: Literal["before", "during", "after"]) -> GpuState | None:
        """All sensors now; 0 for one that this GPU does not have."""
        nvml = self._nvml
        if nvml is None:
            return None
        return GpuState(
            when=when,
            graphics_clock_mhz=self._read(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_GRAPHICS) or 0,
            memory_clock_mhz=self._read(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM) or 0,
            temperature_c=self._read(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU) or 0,
            power_w=(self._read(nvml.nvmlDeviceGetPowerUsage) or 0) / 1e3,
            throttle_reasons=self._read(nvml.nvmlDeviceGetCurrentClocksThrottleReasons) or 0,
        )

    def energy_joules(self) -> float | None:
        """Since the driver was loaded."""
        millijoules = None if self._nvml is None else self._read(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
        return None if millijoules is None else millijoules / 1e3

    def own_bytes(self) -> int | None:
        """Memory of the GPU that this process holds."""
        processes = None if self._nvml is None else self._read(self._nvml.nvmlDeviceGetComputeRunningProcesses)
        return next((entry.usedGpuMemory for entry in processes or () if entry.pid == os.getpid()), None)

    def _read(self, sensor: Callable[..., Any], *which: int) -> Any:
        """None where this GPU has no such sensor."""
        try:
            return sensor(self._device, *which)
        except self._nvml.NVMLError:
            return None


def watch(index: int = 0) -> Watch:
    """Open NVML, or a watch that sees nothing and says why."""
    try:
        import pynvml
    except ImportError:
        return Watch(None, None, "nvidia-ml-py is not installed" if gpu_name() else "no NVIDIA driver or GPU")
    try:
        pynvml.nvmlInit()
        return Watch(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index))
    except pynvml.NVMLError_LibraryNotFound:
        return Watch(None, None, "no NVIDIA driver: NVML is not there")
    except pynvml.NVMLError as error:
        return Watch(None, None, f"NVML cannot read GPU {index}: {error}")


def warnings(states: Sequence[GpuState]) -> tuple[str, ...]:
    """Say when clocks moved between `during` and `after`, or the GPU held itself back. Before, it was idle."""
    loaded = [state for state in states if state.when != "before"]
    found = []
    for name in ("graphics_clock_mhz", "memory_clock_mhz"):
        values = [getattr(state, name) for state in loaded]
        if values and min(values) < max(values) * (1 - _CLOCK_MOVED):
            found.append(f"{name.removesuffix('_mhz').replace('_', ' ')} moved: {min(values)} to {max(values)} MHz")
    if any(state.throttle_reasons & ~_HARMLESS for state in loaded):
        found.append("the GPU was throttled while this was measured")
    return tuple(found)
