"""Where a frame's time goes: by the host's clock, and by a GPU's, here a HostDevice's."""

import time
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segpipe.errors import BackendError
from segpipe.runtime.cuda.backend import GpuBackend
from segpipe.runtime.cuda.kernels import Kernels
from segpipe.runtime.cuda.lane import Parts
from segpipe.runtime.request import StepTimes
from stages.benchmark.budget import STEPS, BudgetSteps, find_budget
from stages.benchmark.contestants import Scene
from stages.measuring.rounds import Rounds, interleave
from stages.results.benchmark import Budget
from tests.frame_cases import MASK, assert_equal, contract_of, noise
from tests.host_device import HostDevice, kernel_library
from tests.host_engine import IMAGE, HostContext, HostEngine, conv_graph

CONTRACT = contract_of()
GRAPH = conv_graph(CONTRACT)
NETWORK_S = 0.01
FRAME_NS = 3_600_000_000_000  # an hour: the steps fit in it on any machine


@pytest.fixture(autouse=True)
def _needs_compiler() -> None:
    kernel_library()


class SlowContext(HostContext):
    """Its network takes a known time of the device."""

    def enqueue(self, source: int, targets: Mapping[str, int], scratch: int, stream: int) -> None:
        """Later, and slowly."""
        super().enqueue(source, targets, scratch, stream)
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
    steps = BudgetSteps(backend, Scene([noise(CONTRACT, 40, 60, seed) for seed in range(2)], CONTRACT, threads=1))
    for number in range(6):
        steps(number)

    budget = steps.budget(np.full(6, FRAME_NS, np.int64))

    assert isinstance(budget, Budget)
    assert budget.upload_ms is not None
    assert budget.download_ms is not None
    assert budget.network_ms >= 1e3 * NETWORK_S
    parts = (budget.pre_ms, budget.upload_ms, budget.network_ms, budget.post_ms, budget.download_ms, budget.rest_ms)
    assert sum(parts) == pytest.approx(1e-6 * FRAME_NS, abs=0.01)
    assert budget.end_to_end_ms == 1e-6 * FRAME_NS


STEP_MS = st.floats(0.01, 50)


@given(
    parts=st.lists(st.tuples(STEP_MS, STEP_MS, STEP_MS), min_size=1, max_size=12),
    whole_ms=st.lists(STEP_MS, min_size=12, max_size=12),
)
def test_a_budget_adds_up_to_its_frame_or_there_is_none(
    parts: list[tuple[float, float, float]], whole_ms: list[float]
) -> None:
    steps = BudgetSteps(slow_backend(HostDevice()), Scene([], CONTRACT, threads=1))
    steps.taken = {number: StepTimes(*times) for number, times in enumerate(parts)}

    budget = steps.budget(np.array([round(1e6 * ms) for ms in whole_ms]))

    if isinstance(budget, str):
        assert "other work disturbed" in budget
        return
    named = (budget.pre_ms, budget.network_ms, budget.post_ms, budget.rest_ms)
    assert min(named) >= 0
    assert sum(named) == pytest.approx(budget.end_to_end_ms, abs=1e-3)


def test_the_rest_is_what_is_left_of_the_frame_and_noise_is_no_rest() -> None:
    steps = BudgetSteps(slow_backend(HostDevice()), Scene([], CONTRACT, threads=1))
    steps.taken = {n: StepTimes(1.0, 5.0 + n, 1.0) for n in range(3)}

    longer = steps.budget(np.array([8_000_000, 9_500_000, 9_750_000]))
    as_long = steps.budget(np.full(3, 7_900_000))
    shorter = steps.budget(np.full(3, 4_000_000))

    assert isinstance(longer, Budget)
    assert (longer.pre_ms, longer.network_ms, longer.upload_ms) == (1.0, 6.0, None)
    assert (longer.rest_ms, longer.end_to_end_ms) == (1.5, 9.5)
    assert isinstance(as_long, Budget)
    assert (as_long.rest_ms, as_long.end_to_end_ms) == (0.0, 8.0)
    assert shorter == "the steps took 8.00 ms, the whole frame 4.00: other work disturbed them"


def test_another_backends_frames_have_no_budget() -> None:
    steps = BudgetSteps(slow_backend(HostDevice()), Scene([], CONTRACT, threads=1))
    steps.taken = {0: StepTimes(1.0, 5.0, 1.0)}
    rounds = Rounds({"segpipe host": np.array([8_000_000]), "segpipe other": np.array([90_000_000])})

    assert isinstance(find_budget(steps, "segpipe host", rounds), Budget)
    assert "steps are those of host" in str(find_budget(steps, "segpipe other", rounds))
    assert "steps are those of host" in str(find_budget(steps, "", rounds))


def test_steps_that_fail_say_why_there_is_no_budget() -> None:
    def refused(number: int) -> None:
        raise BackendError("device lost")

    steps = BudgetSteps(slow_backend(HostDevice()), Scene([], CONTRACT, threads=1))
    rounds = interleave({"segpipe host": lambda number: None, STEPS: refused}, 2, 60)

    assert find_budget(steps, "segpipe host", rounds) == "failed in round 1: device lost"
