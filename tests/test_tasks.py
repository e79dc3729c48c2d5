"""Tasks: the tables agree, and a task that nobody here has heard of runs from its contract to its answer."""

from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segpipe.contract.schema import CONTRACTS, Contract
from segpipe.errors import ContractError, InputError
from segpipe.evaluate import evaluate_frames
from segpipe.runtime.backends import onnxruntime
from segpipe.runtime.request import OpenOptions, Outputs
from segpipe.runtime.segmenter import Segmenter
from segpipe.tasks import TASKS, task_of
from segpipe.tasks.semantic import SemanticTask
from stages.tasks import OFFLINE_TASKS
from stages.validate.judging.tasks import GATES
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


def test_every_task_has_a_contract_a_light_half_an_offline_half_and_a_gate() -> None:
    assert list(CONTRACTS) == list(TASKS) == list(OFFLINE_TASKS) == list(GATES)
    for made in (TASKS, OFFLINE_TASKS, GATES):
        for name, home in made.items():
            assert resolve_name(home).__module__.endswith(name)
    assert isinstance(task_of(Contract(**contract_fields())), SemanticTask)


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


@pytest.mark.usefixtures("brightness")
def test_a_cpu_runs_a_task_that_a_test_registered_from_its_contract_to_the_segmenters_answer() -> None:
    contract: Any = toy_task.CONTRACT
    backend = onnxruntime.open(toy_task.graph(), contract, OpenOptions(threads=1))
    frames = [frame_of(16, 24), frame_of(16, 24, 1), frame_of(32, 8, 2)]

    with Segmenter(backend, contract, ()) as segmenter:
        for frame, mean in zip(frames, segmenter(frames), strict=True):
            assert mean == pytest.approx(expected(frame)[0], abs=TOLERANCE)
        result: Any = segmenter.detail(frames[2])
        assert_bright(result, frames[2])
        tiled: Any = segmenter.tiled(frames[0])
        assert_bright(tiled, frames[0])
        with pytest.raises(InputError, match="no scores"):
            segmenter.detail(frames[0], Outputs(scores=True))
        samples: Any = [(frame, expected(frame)[0]) for frame in frames]
        worst: Any = evaluate_frames(segmenter, samples, lambda _: None)
        assert worst < TOLERANCE


@pytest.mark.usefixtures("brightness")
def test_a_graph_of_another_task_is_refused() -> None:
    with pytest.raises(ContractError, match="task is 'semantic' against 'brightness'"):
        onnxruntime.open(toy_task.graph(), Contract(**contract_fields()), OpenOptions(threads=1))
