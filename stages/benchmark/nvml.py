"""NVML through its C interface: clocks, temperature, power, throttling, energy. Without a driver it says so once."""

import ctypes
import os
from collections.abc import Sequence
from typing import Literal

from stages.results.benchmark import GpuState

LIBRARY = "libnvidia-ml.so.1"
_CLOCK_MOVED = 0.05  # share by which a clock may differ between two moments before figures are doubtful
_HARMLESS = 0x1 | 0x2  # idle, and clocks set by the user
_GRAPHICS, _MEMORY, _TEMPERATURE = 0, 2, 0
_MOST_PROCESSES = 64


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used_bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class Watch:
    """One GPU's sensors; without a library every answer is None and `unread` says why."""

    def __init__(self, library: ctypes.CDLL | None, unread: str, index: int = 0) -> None:
        self._library, self.unread = library, unread
        self._device = ctypes.c_void_p()
        self.name = ""
        if library is None:
            return
        found = library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(self._device))
        if found != 0:
            self._library, self.unread = None, f"NVML has no GPU {index} (error {found})"
            return
        text = ctypes.create_string_buffer(96)
        library.nvmlDeviceGetName(self._device, text, ctypes.c_uint(96))
        self.name = text.value.decode(errors="replace")

    def state(self, when: Literal["before", "during", "after"]) -> GpuState | None:
        """All sensors now."""
        if self._library is None:
            return None
        return GpuState(
            when=when,
            graphics_clock_mhz=self._number("nvmlDeviceGetClockInfo", ctypes.c_uint(), _GRAPHICS) or 0,
            memory_clock_mhz=self._number("nvmlDeviceGetClockInfo", ctypes.c_uint(), _MEMORY) or 0,
            temperature_c=self._number("nvmlDeviceGetTemperature", ctypes.c_uint(), _TEMPERATURE) or 0,
            power_w=(self._number("nvmlDeviceGetPowerUsage", ctypes.c_uint()) or 0) / 1e3,
            throttle_reasons=self._number("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong()) or 0,
        )

    def energy_joules(self) -> float | None:
        """Since the driver was loaded."""
        millijoules = self._number("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong())
        return None if millijoules is None else millijoules / 1e3

    def own_bytes(self) -> int | None:
        """Memory of the GPU that this process holds."""
        if self._library is None:
            return None
        count, processes = ctypes.c_uint(_MOST_PROCESSES), (_Process * _MOST_PROCESSES)()
        call = self._library.nvmlDeviceGetComputeRunningProcesses_v3
        if call(self._device, ctypes.byref(count), processes) != 0:
            return None
        return next((int(entry.used_bytes) for entry in processes[: count.value] if entry.pid == os.getpid()), None)

    def _number(
        self, function: str, answer: "ctypes.c_uint | ctypes.c_ulonglong", which: int | None = None
    ) -> int | None:
        """Call `function(device[, which], &answer)`; None where this GPU has no such sensor."""
        if self._library is None:
            return None
        between = () if which is None else (ctypes.c_int(which),)
        code = getattr(self._library, function)(self._device, *between, ctypes.byref(answer))
        return int(answer.value) if code == 0 else None


def watch(library: str = LIBRARY) -> Watch:
    """Open NVML, or a watch that sees nothing and says why."""
    try:
        loaded = ctypes.CDLL(library)
    except OSError:
        return Watch(None, "no NVIDIA driver: NVML is not there")
    code = loaded.nvmlInit_v2()
    if code != 0:
        return Watch(None, f"NVML does not start (error {code})")
    return Watch(loaded, "")


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
