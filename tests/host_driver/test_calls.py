"""What a frame costs: calls of the driver, bytes that are copied, memory that is allocated."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from segpipe.runtime.cuda.device import Device
from segpipe.runtime.request import Outputs
from tests.frame_cases import MASK, assert_equal, contract_of, noise
from tests.host_driver import driver
from tests.host_driver.backends import Computed
from tests.host_engine import conv_graph

A_FRAME = {"cuCtxPushCurrent": 1, "cuGraphLaunch": 1, "cuStreamSynchronize": 1, "cuCtxPopCurrent": 1}
ALLOCATING = {"cuMemAlloc", "cuMemFree", "cuMemHostAlloc", "cuMemFreeHost"}
CONTRACT = contract_of()
GRAPH = conv_graph(CONTRACT)
WANTED = {
    "mask": Outputs(),
    "confidence": Outputs(confidence=True),
    "scores": Outputs(confidence=True, scores=True),
    "at network size": Outputs(at_network_size=True),
}


@pytest.fixture
def computed(device: Device) -> "Computed":
    """A network on the driver."""
    return Computed(device, CONTRACT, GRAPH)


@pytest.mark.parametrize("name", WANTED)
def test_a_frame_is_four_calls(computed: Computed, name: str) -> None:
    with computed:
        frames = [noise(CONTRACT, 40, 60), noise(CONTRACT, 80, 20, 1)]
        for frame in frames * 2:
            computed.backend.infer([frame], WANTED[name])

        for frame in frames * 2:  # a second shape between two of the first
            assert driver.calls_of(lambda one=frame: computed.backend.infer([one], WANTED[name])) == A_FRAME  # type: ignore[misc]


def test_a_batch_is_four_calls(computed: Computed) -> None:
    with computed:
        frames = [noise(CONTRACT, 40, 60, seed) for seed in range(3)]
        for _ in range(2):
            computed.backend.infer(frames, MASK)

        assert driver.calls_of(lambda: computed.backend.infer(frames, MASK)) == A_FRAME


def test_the_first_frame_after_warm_up_is_four_calls(computed: Computed) -> None:
    with computed:
        computed.segmenter.warm_up((40, 60))

        assert driver.calls_of(lambda: computed.segmenter(noise(CONTRACT, 40, 60))) == A_FRAME


def test_every_frame_of_a_stream_after_warm_up_is_four_calls(computed: Computed) -> None:
    frames = [noise(CONTRACT, 40, 60, seed) for seed in range(24)]
    with computed:
        computed.segmenter.warm_up((40, 60))

        calls = driver.calls_of(lambda: list(computed.segmenter.stream(frames)))

    assert calls == {name: 24 * count for name, count in A_FRAME.items()}


def test_only_the_frame_and_its_mask_are_copied(computed: Computed) -> None:
    frame = noise(CONTRACT, 40, 60)
    with computed:
        for _ in range(3):
            driver.report()
            computed.backend.infer([frame], MASK)

        assert driver.report()["copied"] == {"upload": frame.nbytes, "download": 40 * 60}


def test_frames_allocate_nothing_after_the_first(computed: Computed) -> None:
    sizes = [(100, 120), (40, 60)]
    with computed:
        frames = [noise(CONTRACT, *size, seed) for size in sizes for seed in range(3)]
        for frame in frames:
            computed.backend.infer([frame], Outputs(confidence=True, scores=True))

        calls = driver.calls_of(lambda: [computed.backend.infer([one], Outputs(confidence=True)) for one in frames * 4])
        calls = driver.calls_of(lambda: [computed.backend.infer([one], Outputs(confidence=True)) for one in frames * 4])

    assert not ALLOCATING & set(calls)


@pytest.mark.parametrize("use", [lambda mask: None, torch.utils.dlpack.from_dlpack], ids=["dropped", "DLPack"])
def test_results_on_the_device_use_the_memory_of_earlier_ones(
    computed: Computed, monkeypatch: pytest.MonkeyPatch, use: Callable[[object], object]
) -> None:
    frames = [noise(CONTRACT, 40, 60, seed) for seed in range(8)]
    monkeypatch.setattr(type(computed.backend._gpu), "dlpack_type", 1)  # PyTorch reads it on the host
    wanted = Outputs(confidence=True, on_device=True)

    def run() -> None:
        for frame in frames:
            use(computed.backend.infer([frame], wanted)[0].mask)

    with computed:
        run()
        calls = driver.calls_of(run)

    assert not ALLOCATING & set(calls)


def test_a_result_that_others_may_still_read_is_not_used_again(computed: Computed) -> None:
    with computed:
        wanted = Outputs(on_device=True)
        first = computed.backend.infer([noise(CONTRACT, 40, 60)], wanted)[0].mask
        pointer = first.__cuda_array_interface__["data"][0]
        del first

        calls = driver.calls_of(lambda: computed.backend.infer([noise(CONTRACT, 40, 60, 1)], wanted))

    assert pointer
    assert calls["cuMemFree"] == calls["cuMemAlloc"] == 1, "freeing waits for the reader"


def test_contexts_of_a_lane_share_their_scratch_memory(device: Device) -> None:
    with Computed(device, CONTRACT, GRAPH) as computed:
        computed.engine.scratch_bytes = 1000
        for batch in (1, 2, 3, 1, 2, 3):
            computed.backend.infer([noise(CONTRACT, 40, 60)] * batch, MASK)

        assert computed.engine.contexts == 3
        assert len(computed.engine.scratches) == 1


def test_a_pinned_frame_is_uploaded_from_where_it_lies(computed: Computed) -> None:
    frame = noise(CONTRACT, 40, 60)
    with computed:
        pinned = computed.segmenter.pinned_frame(40, 60)
        before = driver.report()["live"]["pinned_bytes"]
        for seed in range(3):
            pinned[:] = noise(CONTRACT, 40, 60, seed)
            assert_equal(computed.segmenter(pinned), GRAPH, CONTRACT, pinned)

        assert driver.report()["live"]["pinned_bytes"] == before + 40 * 60, "the mask's, and no staging memory"
        assert driver.calls_of(lambda: computed.segmenter(pinned)) == A_FRAME
        for other in (pinned[:20], pinned[::-1], frame):
            assert_equal(computed.segmenter(other), GRAPH, CONTRACT, other)


def test_a_pinned_frame_may_be_dropped_at_any_moment(computed: Computed) -> None:
    with computed:
        half = computed.segmenter.pinned_frame(40, 60)[20:]  # a view keeps it
        half[:] = noise(CONTRACT, 20, 60)
        assert_equal(computed.segmenter(half), GRAPH, CONTRACT, half)
        held = [computed.segmenter.pinned_frame(40, 60) for _ in range(3)]
        computed.engine.when_enqueued = held.clear
        for _ in range(3):
            computed.segmenter(noise(CONTRACT, 30, 30))

        assert computed.backend.describe()["lanes"][0]["graphs"] == 1, "no capture was broken"
        last = computed.segmenter.pinned_frame(40, 60)
    del half, last  # after the backend


def test_no_legacy_function_is_called(computed: Computed) -> None:
    with computed:
        calls = driver.calls_of(lambda: computed.backend.infer([noise(CONTRACT, 40, 60)], MASK))

    assert calls["cuLaunchKernel"] == 3
    assert "cuFuncSetBlockShape" not in calls


def test_masks_are_the_definitions(computed: Computed) -> None:
    with computed:
        for seed, size in enumerate([(40, 60), (80, 20), (40, 60), (200, 300)] * 3):
            frame = noise(CONTRACT, *size, seed)
            assert_equal(computed.backend.infer([frame], MASK)[0].mask, GRAPH, CONTRACT, frame)
            assert np.asarray(frame).size
