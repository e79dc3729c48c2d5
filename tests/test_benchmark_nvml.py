"""NVML's answers, from a stand-in for the vendor's library with its C interface; and a machine without one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from stages.benchmark import nvml
from stages.results.benchmark import GpuState

COMPILER = shutil.which("cc") or shutil.which("gcc")
SOURCE = """
#include <string.h>
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } Process;
int nvmlInit_v2(void) { return INIT; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)7; return index ? 2 : 0; }
int nvmlDeviceGetName(void *device, char *name, unsigned length) { strncpy(name, "Stand-in 1000", length); return 0; }
int nvmlDeviceGetClockInfo(void *device, int which, unsigned *mhz) {
  *mhz = which == 0 ? 1500 : 2600; return device != (void *)7; }
int nvmlDeviceGetTemperature(void *device, int which, unsigned *c) { *c = 61; return which; }
int nvmlDeviceGetPowerUsage(void *device, unsigned *mw) { *mw = 250500; return 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *r) { *r = 4; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj) {
  static unsigned long long e; *mj = e += 5000; return 0; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, Process *p) {
  p[0] = (Process){1, 5, 0, 0}; p[1] = (Process){PID, 123456789, 0, 0}; *count = 2; return 0; }
"""


def stand_in(folder: Path, init: int = 0) -> str:
    """A library that answers as a GPU would."""
    if COMPILER is None:
        pytest.skip("no C compiler here")
    (folder / "nvml.c").write_text(SOURCE.replace("INIT", str(init)).replace("PID", str(os.getpid())))
    library = folder / f"nvml{init}.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, folder / "nvml.c"], check=True)
    return str(library)


def state(when: str, clock: int = 1500, throttle: int = 0) -> GpuState:
    """A moment of a GPU."""
    return GpuState.model_validate(
        {
            "when": when, "graphics_clock_mhz": clock, "memory_clock_mhz": 2600, "temperature_c": 60, "power_w": 200.0,
            "throttle_reasons": throttle,
        }
    )  # fmt: skip


def test_sensors_are_read_with_their_units(tmp_path: Path) -> None:
    watch = nvml.watch(stand_in(tmp_path))
    found = watch.state("during")

    assert (watch.name, watch.unread) == ("Stand-in 1000", "")
    assert found is not None
    assert (found.graphics_clock_mhz, found.memory_clock_mhz, found.temperature_c) == (1500, 2600, 61)
    assert (found.power_w, found.throttle_reasons) == (250.5, 4)
    first, second = watch.energy_joules(), watch.energy_joules()
    assert (first, second) == (5.0, 10.0)
    assert watch.own_bytes() == 123456789


def test_without_a_driver_every_answer_is_none_and_the_reason_is_told() -> None:
    watch = nvml.watch("libthere-is-none.so")

    assert watch.state("before") is None
    assert watch.energy_joules() is None
    assert watch.own_bytes() is None
    assert "no NVIDIA driver" in watch.unread


def test_a_library_that_does_not_start_is_told(tmp_path: Path) -> None:
    assert nvml.watch(stand_in(tmp_path, init=9)).unread == "NVML does not start (error 9)"


def test_moved_clocks_and_throttling_are_warned_of() -> None:
    assert nvml.warnings([state("before", 300), state("during"), state("after")]) == ()
    assert nvml.warnings([state("during"), state("after", 1200)]) == ("graphics clock moved: 1200 to 1500 MHz",)
    assert nvml.warnings([state("during", throttle=1)]) == ()
    assert "throttled" in nvml.warnings([state("during", throttle=0x4)])[0]
