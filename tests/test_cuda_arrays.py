"""Frames that lie in device memory, and results that stay there, on host memory."""

from typing import Any

import numpy as np
import pytest
import torch

from segpipe import Result, Segmenter, testing
from segpipe.errors import InputError
from segpipe.runtime.cuda.arrays import DeviceArray
from segpipe.runtime.cuda.device import LEGACY_STREAM
from segpipe.runtime.cuda.spare import Spare
from segpipe.runtime.request import Outputs
from tests.frame_cases import MASK, assert_equal, contract_of, noise
from tests.host_device import HostDevice, kernel_library
from tests.host_engine import conv_graph, host_backend
from tests.interface import Interface


@pytest.fixture(autouse=True)
def _needs_compiler() -> None:
    kernel_library()


def test_frames_in_device_memory_are_read_with_their_strides() -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    backend = host_backend(contract, graph)

    for seed in range(3):
        frame = noise(contract, 41, 59, seed)
        for array in (frame, frame[::-1], np.asfortranarray(frame), frame[:, ::2]):
            assert_equal(backend.infer([Interface(array, stream=None)], MASK)[0].mask, graph, contract, array)


def test_torch_frames_come_by_dlpack() -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    backend = host_backend(contract, graph)
    frame = noise(contract, 41, 59)
    planes = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))

    class Tensor:  # the host's tensors refuse a stream; a GPU's take it
        shape = (41, 59, 3)

        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

        def __dlpack__(self, *, stream: int) -> Any:
            assert stream > 0
            return planes.permute(1, 2, 0).__dlpack__()

    assert_equal(backend.infer([Tensor()], MASK)[0].mask, graph, contract, frame)


@pytest.mark.parametrize("extra", [{"stream": LEGACY_STREAM}, {}], ids=["named stream", "version 2 names none"])
def test_frames_still_being_made_are_waited_for(extra: dict[str, int]) -> None:
    contract, device = contract_of(), HostDevice()
    graph = conv_graph(contract)
    backend = host_backend(contract, graph, device)
    frame = noise(contract, 41, 59)
    unfinished = np.zeros_like(frame)
    with device.current():
        device.put(LEGACY_STREAM, lambda: np.copyto(unfinished, frame))

    mask = backend.infer([Interface(unfinished, **extra)], MASK)[0].mask

    assert_equal(mask, graph, contract, frame)


def test_a_device_frame_of_another_type_is_refused() -> None:
    contract = contract_of()
    backend = host_backend(contract, conv_graph(contract))

    with pytest.raises(InputError, match="float32"):
        backend.infer([Interface(np.zeros((8, 8, 3), np.float32), stream=None)], MASK)

    assert backend.infer([noise(contract, 8, 8)], MASK)[0].mask.shape == (8, 8)


def test_results_may_stay_on_the_device() -> None:
    contract, device = contract_of(), HostDevice()
    graph = conv_graph(contract)
    backend = host_backend(contract, graph, device)
    frames = [noise(contract, 41, 59, seed) for seed in range(3)]

    for _ in range(3):
        for frame, result in zip(frames, backend.infer(frames, Outputs(confidence=True, on_device=True)), strict=True):
            mask, confidence = torch.utils.dlpack.from_dlpack(result.mask), np.from_dlpack(result.confidence)
            assert_equal(mask.numpy(), graph, contract, frame)
            assert confidence.shape == mask.shape


def test_memory_of_a_result_lives_as_long_as_its_consumer() -> None:
    device = HostDevice()
    spare = Spare(device)
    with device.current():
        array = DeviceArray(device, spare, spare.take(20, 0), (4, 5), np.dtype("uint8"))
        spare.close()
    consumer = np.from_dlpack(array)
    del array
    held = device.held

    del consumer

    assert (held, device.held) == (1, 0)


def test_a_capsule_that_nobody_takes_frees_its_memory() -> None:
    device = HostDevice()
    spare = Spare(device)
    with device.current():
        array = DeviceArray(device, spare, spare.take(80, 0), (4, 5), np.dtype("float32"))
        spare.close()
    capsule = array.__dlpack__()

    del array, capsule

    assert device.held == 0


def test_a_mask_on_the_gpu_is_copied_to_the_host_for_what_people_ask() -> None:
    contract = contract_of()
    backend = host_backend(contract, conv_graph(contract))
    frame = noise(contract, 41, 59)
    segmenter = Segmenter(backend, contract, testing.palette_of(contract))

    result = segmenter.detail(frame, Outputs(on_device=True, confidence=True))

    assert not isinstance(result.mask, np.ndarray)
    here = backend.infer([frame], MASK)[0].mask
    assert (result.colour() == Result(here, contract, segmenter.palette).colour()).all()
    assert sum(area.pixels for area in result.areas().values()) == here.size
    assert "41x59" in repr(result)
    assert result._detections()["confidence"].min() > 0
