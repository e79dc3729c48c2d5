"""Tasks: the tables agree, and a task that nobody here has heard of runs from its contract to its answer."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segpipe.contract.schema import CONTRACTS, Contract
from segpipe.errors import InputError
from segpipe.runtime.request import Outputs
from segpipe.tasks import TASKS, task_of
from segpipe.tasks.semantic import Semantic
from tests import toy_task
from tests.host_device import HostDevice, kernel_library
from tests.host_engine import host_backend
from tests.tiny import contract_fields

TOLERANCE = 1e-5  # sums of a frame's pixels in another order
HALF_TOLERANCE = 1e-3  # FP16 keeps 11 bits of numbers below 1


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    toy_task.register(monkeypatch)


def frame_of(height: int, width: int, seed: int = 0) -> NDArray[Any]:
    """Noise at a multiple of 8, so that nothing is padded."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def expected(frame: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    """Mean and the channels' peaks, of pixels between 0 and 1."""
    return frame.mean() / 255, frame.max((0, 1)) / 255


def assert_bright(answer: toy_task.Brightness, frame: NDArray[Any], tolerance: float = TOLERANCE) -> None:
    mean, peaks = expected(frame)

    assert isinstance(answer, toy_task.Brightness)
    assert answer.mean == pytest.approx(mean, abs=tolerance)
    assert answer.peaks == pytest.approx(peaks, abs=tolerance)
    assert answer.size == frame.shape[:2]


def test_every_task_has_a_contract_and_a_light_half() -> None:
    assert list(CONTRACTS) == list(TASKS)
    assert isinstance(task_of(Contract(**contract_fields())), Semantic)


@pytest.mark.usefixtures("brightness")
def test_a_gpu_downloads_the_outputs_of_a_task_without_kernels_and_decodes_them_on_the_host() -> None:
    kernel_library()
    device = HostDevice()
    backend = host_backend(toy_task.CONTRACT, toy_task.graph(), device)
    sizes = [(16, 24), (32, 8), (16, 24), (16, 24), (32, 8), (32, 8)]

    for seed, size in enumerate(sizes):  # run, captured, replayed
        frame = frame_of(*size, seed)
        assert_bright(backend.infer([frame], Outputs())[0], frame)
    frames = [frame_of(16, 24, seed) for seed in range(5)]
    for answer, frame in zip(backend.infer(frames, Outputs()), frames, strict=True):
        assert_bright(answer, frame)
    assert device.graph_launches > 0


@pytest.mark.usefixtures("brightness")
def test_half_precision_outputs_are_decoded_too() -> None:
    kernel_library()
    frame = frame_of(16, 24)
    (answer,) = host_backend(toy_task.CONTRACT, toy_task.graph("FLOAT16")).infer([frame], Outputs())

    assert_bright(answer, frame, HALF_TOLERANCE)
    assert answer.peaks.dtype == np.float32


@pytest.mark.usefixtures("brightness")
def test_answers_made_on_the_host_cannot_stay_on_the_device() -> None:
    kernel_library()
    backend, frame = host_backend(toy_task.CONTRACT, toy_task.graph()), frame_of(16, 24)

    with pytest.raises(InputError, match="made on the host"):
        backend.infer([frame], Outputs(on_device=True))
    assert_bright(backend.infer([frame], Outputs())[0], frame)
