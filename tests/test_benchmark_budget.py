"""Where a frame's time goes: by the host's clock, and by a GPU's, here a HostDevice's."""

import time

import numpy as np
import pytest

from segpipe.errors import BackendError
from segpipe.runtime.cuda.backend import GpuBackend
from segpipe.runtime.cuda.kernels import Kernels
from segpipe.runtime.cuda.lane import Parts
from segpipe.runtime.request import StepTimes
from stages.benchmark.budget import STEPS, Steps, find_budget
from stages.benchmark.contestants import Scene
from stages.benchmark_report import Budget
from stages.timing import Contestant, Rounds, interleave
from tests.frame_cases import MASK, assert_equal, contract_of, noise
from tests.host_device import HostDevice, kernel_library
from tests.host_engine import IMAGE, HostContext, HostEngine, conv_graph

CONTRACT = contract_of()
GRAPH = conv_graph(CONTRACT)
NETWORK_S = 0.01


@pytest.fixture(autouse=True)
def _needs_compiler() -> None:
    kernel_library()


class SlowContext(HostContext):
    """Its network takes a known time of the device."""

    def enqueue(self, source: int, target: int, scratch: int, stream: int) -> None:
        """Later, and slowly."""
        super().enqueue(source, target, scratch, stream)
        self._engine.streams.put(stream, lambda: time.sleep(NETWORK_S))


class SlowEngine(HostEngine):
    """An engine of slow contexts."""

    def context(self) -> HostContext:
        """A new user."""
        return SlowContext(self)


def slow_backend(device: HostDevice) -> GpuBackend:
    engine = SlowEngine(device, GRAPH, CONTRACT)
    with device.current():
        return GpuBackend("host", device, Parts(engine, CONTRACT, Kernels(device, IMAGE)), 1)


def test_the_devices_clock_tells_the_steps_apart() -> None:
    times = slow_backend(HostDevice()).time_steps(noise(CONTRACT, 40, 60))

    assert times.network_ms >= 1e3 * NETWORK_S
    assert times.upload_ms is not None
    assert times.download_ms is not None
    assert min(times.upload_ms, times.pre_ms, times.post_ms, times.download_ms) > 0
    assert times.network_ms > times.upload_ms + times.pre_ms + times.post_ms + times.download_ms


def test_timing_steps_leaves_nothing_behind_and_frames_go_on_as_before() -> None:
    device = HostDevice()
    backend, frame, other = slow_backend(device), noise(CONTRACT, 40, 60), noise(CONTRACT, 40, 60, 1)
    backend.infer([frame], MASK)
    backend.infer([frame], MASK)
    held = device.held

    backend.time_steps(other)

    assert device.held == held
    assert_equal(backend.infer([frame], MASK)[0].mask, GRAPH, CONTRACT, frame)


def test_a_failure_between_the_marks_gives_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    device = HostDevice()
    backend, frame = slow_backend(device), noise(CONTRACT, 40, 60)
    monkeypatch.setattr("segpipe.runtime.cuda.lane._AHEAD", 0)

    def refused(*_: object) -> None:
        raise BackendError("the engine refused")

    monkeypatch.setattr(SlowContext, "enqueue", refused)
    with pytest.raises(BackendError, match="refused"):
        backend.time_steps(frame)
    backend.close()

    assert device.held == 0


def test_one_mark_that_is_not_taken_back_keeps_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    device, real = HostDevice(), HostDevice.drop_mark
    backend, refusals = slow_backend(device), [BackendError("refused")]
    dropped: list[int] = []

    def refuses_once(self: HostDevice, mark: int) -> None:
        dropped.append(mark)
        real(self, mark)
        if refusals:
            raise refusals.pop()

    monkeypatch.setattr(HostDevice, "drop_mark", refuses_once)
    backend.time_steps(noise(CONTRACT, 40, 60))

    assert len(dropped) == 6


def test_the_budget_of_a_gpu_holds_transfers_and_adds_up() -> None:
    backend = slow_backend(HostDevice())
    scene = Scene([noise(CONTRACT, 40, 60, seed) for seed in range(2)], CONTRACT, threads=1)
    steps = Steps(backend, scene)
    calls: dict[str, Contestant] = {
        "whole": lambda number: backend.infer([scene.frame(number)], MASK),
        "steps": steps,
    }

    budget = steps.budget(interleave(calls, 6, 60).samples["whole"])

    assert budget.upload_ms is not None
    assert budget.download_ms is not None
    assert budget.network_ms >= 1e3 * NETWORK_S
    assert budget.end_to_end_ms >= 1e3 * NETWORK_S
    assert budget.pre_ms + budget.post_ms + budget.upload_ms + budget.download_ms < budget.network_ms


def test_the_rest_is_what_end_to_end_took_beyond_the_steps_of_its_round() -> None:
    steps = Steps(slow_backend(HostDevice()), Scene([], CONTRACT, threads=1))
    steps.taken = {n: StepTimes(1.0, 5.0 + n, 1.0) for n in range(3)}

    budget = steps.budget(np.array([8_000_000, 9_500_000, 9_750_000]))

    assert (budget.pre_ms, budget.network_ms, budget.upload_ms) == (1.0, 6.0, None)
    assert (budget.rest_ms, budget.end_to_end_ms) == (1.0, 9.5)


def test_another_backends_frames_have_no_budget() -> None:
    steps = Steps(slow_backend(HostDevice()), Scene([], CONTRACT, threads=1))
    steps.taken = {0: StepTimes(1.0, 5.0, 1.0)}
    rounds = Rounds({"segpipe host": np.array([8_000_000]), "segpipe other": np.array([90_000_000])})

    assert isinstance(find_budget(steps, "segpipe host", rounds), Budget)
    assert "steps are those of host" in str(find_budget(steps, "segpipe other", rounds))
    assert "steps are those of host" in str(find_budget(steps, "", rounds))


def test_steps_that_fail_say_why_there_is_no_budget() -> None:
    def refused(number: int) -> None:
        raise BackendError("device lost")

    steps = Steps(slow_backend(HostDevice()), Scene([], CONTRACT, threads=1))
    rounds = interleave({"segpipe host": lambda number: None, STEPS: refused}, 2, 60)

    assert find_budget(steps, "segpipe host", rounds) == "failed in round 1: device lost"
