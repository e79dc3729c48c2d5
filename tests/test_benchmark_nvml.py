"""NVML's answers by nvidia-ml-py, over a stand-in for the vendor's library; and a machine without one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stages.benchmark import nvml
from stages.results.benchmark import GpuState
from tests.children import ROOT

COMPILER = shutil.which("cc") or shutil.which("gcc")
SOURCE = """
#include <string.h>
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } Process;
int nvmlInitWithFlags(unsigned flags) { return INIT; }
const char *nvmlErrorString(int code) { return code == 9 ? "Driver Not Loaded" : "another"; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)7; return index ? 2 : 0; }
int nvmlDeviceGetClockInfo(void *device, int which, unsigned *mhz) {
  *mhz = which == 0 ? 1500 : 2600; return device != (void *)7; }
int nvmlDeviceGetTemperature(void *device, int which, unsigned *c) { *c = 61; return which; }
int nvmlDeviceGetPowerUsage(void *device, unsigned *mw) { *mw = 250500; return 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *r) { *r = 4; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj) {
  static unsigned long long e; *mj = e += 5000; return ENERGY; }
#include <unistd.h>
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, Process *p) {
  if (*count < 2) { *count = 2; return 7; }
  p[0] = (Process){1, 5, 0, 0}; p[1] = (Process){(unsigned)getpid(), 123456789, 0, 0}; *count = 2; return 0; }
"""
ASK = """
import json
from stages.benchmark import nvml
watch = nvml.watch(INDEX)
state = watch.state("during")
state = state and state.model_dump()
print(json.dumps([watch.unread, state, watch.energy_joules(), watch.energy_joules(), watch.own_bytes()]))
"""
UNSUPPORTED = 3  # NVML's status for a sensor that a GPU does not have


def ask(folder: Path, init: int = 0, energy: int = 0, index: int = 0) -> list[Any]:
    """What a process sees whose libnvidia-ml.so.1 answers as a GPU would: unread, state, energy twice, own bytes."""
    pytest.importorskip("pynvml", reason="pip install nvidia-ml-py")
    if COMPILER is None:
        pytest.skip("no C compiler here")
    (folder / "nvml.c").write_text(SOURCE.replace("INIT;", f"{init};").replace("ENERGY;", f"{energy};"))
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, folder / "nvml.c"], check=True)
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder)}
    command = [sys.executable, "-c", ASK.replace("INDEX", str(index))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    found: list[Any] = json.loads(done.stdout)
    return found


def state(when: str, clock: int = 1500, throttle: int = 0) -> GpuState:
    """A moment of a GPU."""
    return GpuState.model_validate(
        {
            "when": when, "graphics_clock_mhz": clock, "memory_clock_mhz": 2600, "temperature_c": 60, "power_w": 200.0,
            "throttle_reasons": throttle,
        }
    )  # fmt: skip


def test_sensors_are_read_with_their_units(tmp_path: Path) -> None:
    unread, found, first, second, own_bytes = ask(tmp_path)

    assert unread == ""
    assert (found["graphics_clock_mhz"], found["memory_clock_mhz"], found["temperature_c"]) == (1500, 2600, 61)
    assert (found["power_w"], found["throttle_reasons"]) == (250.5, 4)
    assert (first, second) == (5.0, 10.0)
    assert own_bytes == 123456789


def test_a_sensor_that_a_gpu_does_not_have_is_none_and_the_others_are_read(tmp_path: Path) -> None:
    unread, found, first, *_ = ask(tmp_path, energy=UNSUPPORTED)

    assert (unread, first) == ("", None)
    assert found["power_w"] == 250.5


@pytest.mark.parametrize(
    ("settings", "reason"), [({"init": 9}, "Driver Not Loaded"), ({"index": 3}, "GPU 3")], ids=["no driver", "no GPU"]
)
def test_what_does_not_open_is_said_and_every_answer_is_none(
    settings: dict[str, int], reason: str, tmp_path: Path
) -> None:
    unread, *answers = ask(tmp_path, **settings)

    assert unread.startswith("NVML cannot read GPU")
    assert reason in unread
    assert answers == [None] * 4


@pytest.mark.parametrize("absent", ["pynvml", "libnvidia-ml.so.1"])
def test_without_the_package_or_the_library_every_answer_is_none(absent: str) -> None:
    code = f"""
import ctypes, sys
if {absent!r} == "pynvml":
    sys.modules["pynvml"] = None  # as Python itself says that an import must fail
load = ctypes.CDLL
class CDLL(load):
    def __init__(self, name, *rest, **options):
        if "nvidia-ml" in str(name):
            raise OSError(name)
        super().__init__(name, *rest, **options)
ctypes.CDLL = CDLL
{ASK.replace("INDEX", "0")}"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    unread, *answers = json.loads(done.stdout)

    assert unread.startswith(("no NVIDIA driver", "nvidia-ml-py is not installed"))
    assert answers == [None] * 4


def test_moved_clocks_and_throttling_are_warned_of() -> None:
    assert nvml.warnings([state("before", 300), state("during"), state("after")]) == ()
    assert nvml.warnings([state("during"), state("after", 1200)]) == ("graphics clock moved: 1200 to 1500 MHz",)
    assert nvml.warnings([state("during", throttle=1)]) == ()
    assert "throttled" in nvml.warnings([state("during", throttle=0x4)])[0]
