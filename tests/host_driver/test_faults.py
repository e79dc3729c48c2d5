"""What goes wrong on a GPU, planned: nothing that works is thrown away, nothing is left behind, the next frame works.

A test's failures come from the driver (`driver.failing`, `driver.memory_left`) or from the engine beside it.
"""

import gc
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import pytest

from segpipe.errors import BackendError, InputError
from segpipe.runtime.cuda.device import Device, DeviceLostError, OutOfMemoryError
from segpipe.runtime.cuda.engine import Profile
from segpipe.runtime.cuda.opening import open_device
from segpipe.runtime.request import Outputs
from tests.frame_cases import MASK, assert_equal, contract_of, noise
from tests.host_driver import driver
from tests.host_driver.backends import Computed
from tests.host_engine import any_size, conv_graph
from tests.interface import Interface

CONTRACT = contract_of()
GRAPH = conv_graph(CONTRACT)
OPEN = contract_of(fit="pad", network_size=None, size_multiple=16)
OPEN_GRAPH = conv_graph(OPEN)
UP_TO_64 = [Profile((1, 1, 1, 1), (4, 3, 64, 64))]


def test_a_frame_that_is_too_large_leaves_the_lanes_as_they_are(device: Device) -> None:
    with Computed(device, OPEN, OPEN_GRAPH, UP_TO_64) as computed:
        small = noise(OPEN, 40, 60)
        for _ in range(2):
            computed.backend.infer([small], MASK)
        contexts = computed.engine.contexts

        with pytest.raises(BackendError, match=r"inputs of .* this frame needs \('batch', 3, 208, 64\)"):
            computed.backend.infer([small, noise(OPEN, 200, 60)], MASK)

        calls = driver.calls_of(lambda: computed.backend.infer([small], MASK))
        assert calls["cuGraphLaunch"] == 1
        assert "cuMemAlloc" not in calls
        assert computed.engine.contexts == contexts


def test_a_wrong_device_frame_leaves_the_lane_as_it_is(device: Device) -> None:
    with Computed(device, CONTRACT, GRAPH) as computed:
        frames = [Interface(noise(CONTRACT, 40, 60, seed), stream=None) for seed in range(2)]
        for _ in range(2):
            computed.backend.infer(frames, MASK)

        wrong = Interface(np.zeros((40, 60, 3), np.float32), stream=None)
        with pytest.raises(InputError, match="float32"):
            computed.backend.infer([frames[0], wrong], MASK)

        assert driver.calls_of(lambda: computed.backend.infer(frames, MASK))["cuGraphLaunch"] == 1


def test_a_failed_launch_costs_the_lane_and_nothing_else(device: Device) -> None:
    with Computed(device, CONTRACT, GRAPH) as computed:
        frame = noise(CONTRACT, 40, 60)
        for _ in range(2):
            computed.backend.infer([frame], MASK)

        with (
            driver.failing("cuGraphLaunch", driver.INVALID_VALUE),
            pytest.raises(BackendError, match="CUDA_ERROR_INVALID_VALUE"),
        ):
            computed.backend.infer([frame], MASK)

        assert computed.backend.describe()["lanes"] == []
        assert_equal(computed.backend.infer([frame], MASK)[0].mask, GRAPH, CONTRACT, frame)


def test_a_lost_device_is_named_and_closing_works(device: Device) -> None:
    with Computed(device, CONTRACT, GRAPH) as computed:
        frame = noise(CONTRACT, 40, 60)
        computed.backend.infer([frame], MASK)

        with (
            driver.failing("cuStreamSynchronize", driver.ILLEGAL_ADDRESS),
            pytest.raises(DeviceLostError, match="the GPU was lost"),
        ):
            computed.backend.infer([frame], MASK)


def test_closing_on_a_lost_device_is_no_error(device: Device) -> None:
    computed = Computed(device, CONTRACT, GRAPH)
    computed.backend.infer([noise(CONTRACT, 40, 60)], MASK)

    with driver.failing("*", driver.ILLEGAL_ADDRESS):
        computed.backend.close()

    driver.forget()


@pytest.mark.parametrize("callers", [2, 4, 8])
def test_memory_for_two_contexts_serves_any_number_of_callers(device: Device, callers: int) -> None:
    frame = noise(CONTRACT, 40, 60)
    with Computed(device, CONTRACT, GRAPH, lanes=8) as computed:
        computed.engine.contexts_left = 2
        barrier = threading.Barrier(callers)

        def work(_: int) -> tuple[int, ...]:
            barrier.wait()
            return computed.backend.infer([frame], MASK)[0].mask.shape

        with ThreadPoolExecutor(callers) as threads:
            assert list(threads.map(work, range(callers))) == [(40, 60)] * callers


def test_a_lane_without_memory_for_one_more_context_reuses_its_own(device: Device) -> None:
    with Computed(device, OPEN, OPEN_GRAPH, any_size((1, 4))) as computed:
        computed.engine.contexts_left = 1
        for seed, size in enumerate([(16, 16), (32, 16), (16, 16), (48, 32)]):
            frame = noise(OPEN, *size, seed)
            assert_equal(computed.backend.infer([frame], MASK)[0].mask, OPEN_GRAPH, OPEN, frame)


def test_out_of_memory_is_named_and_the_next_frame_works(device: Device) -> None:
    with Computed(device, CONTRACT, GRAPH) as computed:
        frame = noise(CONTRACT, 40, 60)
        computed.backend.infer([frame], MASK)

        with driver.memory_left(100_000), pytest.raises(OutOfMemoryError, match="CUDA_ERROR_OUT_OF_MEMORY"):
            computed.backend.infer([noise(CONTRACT, 1000, 1000)], MASK)

        assert_equal(computed.backend.infer([frame], MASK)[0].mask, GRAPH, CONTRACT, frame)


def test_warming_up_takes_the_lanes_that_memory_allows(device: Device) -> None:
    with Computed(device, CONTRACT, GRAPH) as computed:
        computed.engine.contexts_left = 2

        computed.segmenter.warm_up((40, 60), workers=3)

        assert len(computed.backend.describe()["lanes"]) == 2


def test_a_result_collected_during_a_capture_does_not_break_it(device: Device) -> None:
    wanted = Outputs(on_device=True)
    with Computed(device, CONTRACT, GRAPH) as computed:
        held = [computed.backend.infer([noise(CONTRACT, 40, 60)], wanted)[0].mask]
        computed.engine.when_enqueued = held.clear

        for seed in range(3):  # run, captured, replayed
            frame = noise(CONTRACT, 80, 20, seed)
            held.append(computed.backend.infer([noise(CONTRACT, 40, 60)], wanted)[0].mask)
            computed.backend.infer([frame], MASK)

        assert computed.backend.describe()["lanes"][0]["graphs"] == 2


def test_results_outlive_their_backend_and_are_freed_in_anybodys_capture(device: Device) -> None:
    with Computed(device, CONTRACT, GRAPH) as computed:
        mask = computed.backend.infer([noise(CONTRACT, 40, 60)], Outputs(on_device=True))[0].mask
    assert driver.report()["live"]["device_bytes"] == 40 * 60

    with device.current():
        stream, memory = device.create_stream(), device.allocate(8)
        device.begin_capture(stream)
        del mask
        gc.collect()
        device.copy(memory, memory, 8, stream)
        graph = device.end_capture(stream)
        assert driver.report()["live"]["device_bytes"] == 8
        device.destroy_graph(graph)
        device.free(memory)
        device.destroy_stream(stream)
    assert graph


@pytest.mark.parametrize(("count", "runs"), [(1, [1]), (3, [1, 1, 1]), (5, [8]), (8, [8]), (9, [8, 1]), (13, [8, 8])])
def test_gaps_between_profiles_are_filled_or_gone_around(device: Device, count: int, runs: list[int]) -> None:
    frames = [noise(CONTRACT, 40, 60, seed) for seed in range(count)]
    with Computed(device, CONTRACT, GRAPH, any_size((1, 1), (8, 8))) as computed:
        results = computed.backend.infer(frames, MASK)

        assert [shape[0] for shape in computed.engine.runs] == runs
        for frame, result in zip(frames, results, strict=True):
            assert_equal(result.mask, GRAPH, CONTRACT, frame)


def test_the_second_gpu_is_a_device_of_its_own(provider: Literal["cuda-python", "pycuda"]) -> None:
    second = open_device(1, provider)
    frame = noise(CONTRACT, 40, 60)

    with Computed(second, CONTRACT, GRAPH) as computed:
        assert_equal(computed.backend.infer([frame], MASK)[0].mask, GRAPH, CONTRACT, frame)
        with pytest.raises(InputError, match="lies on GPU 0, this segmenter runs on GPU 1"):
            computed.backend.infer([Foreign(second)], MASK)

    assert second.name == "Host Memory 1"
    assert second.index == 1


class Foreign:
    """A frame in the memory of GPU 0, by DLPack."""

    shape = (40, 60, 3)

    def __init__(self, device: Device) -> None:
        self._type = device.dlpack_type

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._type, 0

    def __dlpack__(self, *, stream: int) -> object:
        return np.zeros(self.shape, np.uint8).__dlpack__()


def test_a_name_ends_where_the_driver_ends_it(device: Device) -> None:
    assert device.name == "Host Memory 0"


def test_the_primary_context_is_retained_once_a_process(provider: Literal["cuda-python", "pycuda"]) -> None:
    open_device(0, provider)
    driver.report()

    devices = [open_device(0, provider) for _ in range(3)]

    assert len(set(map(id, devices))) == 1
    assert driver.report()["calls"] == {}


EXITING = """
from tests.host_driver import driver
driver.library()
from segpipe.runtime.cuda.opening import open_device
device = open_device(0, PROVIDER)
with device.current():
    held = device.create_stream(), device.allocate(100), device.allocate_pinned(100)
"""


def test_a_process_that_closes_nothing_ends_in_silence(provider: Literal["cuda-python", "pycuda"]) -> None:
    code = EXITING.replace("PROVIDER", repr(provider))

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "")
