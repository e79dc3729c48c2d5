"""The maths of measuring."""

import threading
import time
import tracemalloc

import numpy as np
import pytest

from stages.measuring.rounds import (
    ENOUGH,
    OwnTime,
    WarmUp,
    in_words,
    interleave,
    latency,
    median_of_ratios,
    ratio_of_medians,
    warm_up,
)
from stages.measuring.silence import wait_for_silence
from tests.children import PATIENCE_S

LIMIT_S = 0.01
HARNESS_NS = 50_000  # 1 % of a frame of 5 ms


def test_contestants_take_turns_each_once_a_round_after_a_call_that_does_not_count() -> None:
    order: list[tuple[str, int]] = []
    result = interleave({"a": lambda n: order.append(("a", n)), "b": lambda n: order.append(("b", n))}, 20, 60)

    assert [(name, -1 - number) for name, number in order[1::2]] == order[::2]
    rounds = [order[4 * n + 1 : 4 * n + 4 : 2] for n in range(20)]
    assert all({name for name, _ in pair} == {"a", "b"} for pair in rounds)
    assert all({number for _, number in pair} == {n} for n, pair in enumerate(rounds))
    assert {pair[0][0] for pair in rounds} == {"a", "b"}  # neither always runs in the other's wake
    assert {name: len(values) for name, values in result.samples.items()} == {"a": 20, "b": 20}


def test_a_contestant_with_a_better_clock_tells_its_own_time() -> None:
    samples = interleave({"gpu": lambda n: OwnTime(7), "host": lambda n: 7}, 3, 60).samples

    assert list(samples["gpu"]) == [7, 7, 7]
    assert 7 not in samples["host"]


def test_no_other_thread_runs_while_one_is_timed() -> None:
    """What a contestant leaves spinning, as pools of threads do for some milliseconds, is over before the next."""
    spinning = threading.Event()

    def spin() -> None:
        end = time.monotonic() + 0.02
        while time.monotonic() < end:
            pass
        spinning.clear()

    def leaves_a_thread(number: int) -> None:
        if number >= 0:
            spinning.set()
            threading.Thread(target=spin).start()

    met = []
    interleave({"rude": leaves_a_thread, "other": lambda n: met.append(spinning.is_set())}, 5, 60)

    assert met == [False] * 10


def test_waiting_for_silence_gives_up_on_a_thread_that_never_sleeps() -> None:
    over = threading.Event()

    def busy() -> None:
        while not over.is_set():
            pass

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        assert not wait_for_silence()
    finally:
        over.set()
        thread.join()
    assert wait_for_silence()


def test_the_time_limit_ends_with_a_whole_round() -> None:
    """The first call takes longer than the limit, however fast or busy the machine is."""
    called = []

    def call(number: int) -> None:
        called.append(number)
        time.sleep(LIMIT_S)

    samples = interleave({"a": call, "b": lambda n: None}, 1000, seconds=LIMIT_S).samples

    assert called == [-1, 0]
    assert len(samples["a"]) == len(samples["b"]) == 1


def test_a_contestant_that_crashes_in_the_middle_drops_out_with_the_reason() -> None:
    def crash(number: int) -> None:
        if number == 3:
            raise RuntimeError("out of memory\nlong trace")

    result = interleave({"good": lambda n: None, "bad": crash}, 10, 60)

    assert result.failed == {"bad": "failed in round 4: out of memory"}
    assert (len(result.samples["good"]), len(result.samples["bad"])) == (10, 3)


def test_a_bug_of_ours_is_not_taken_for_a_contestant_that_failed() -> None:
    def wrong(number: int) -> None:
        raise TypeError("a bug")

    with pytest.raises(TypeError):
        interleave({"a": wrong}, 1, 60)


def test_ctrl_c_keeps_the_whole_rounds() -> None:
    def interrupted(number: int) -> None:
        if number == 5:
            raise KeyboardInterrupt

    result = interleave({"a": lambda n: None, "b": interrupted}, 10, 60)

    assert result.interrupted
    assert len(result.samples["a"]) == len(result.samples["b"]) == 5


def test_warm_up_goes_on_until_the_median_settles() -> None:
    told_ns = [20] * 4 + [10] * 4 + [2] * 40
    slow_start = warm_up(lambda n: OwnTime(told_ns[n]), seconds=PATIENCE_S)
    never = warm_up(lambda n: OwnTime(2**n), seconds=PATIENCE_S, most=10)

    assert slow_start == WarmUp(calls=15, settled=True), "three calls after the eighth, and four like them"
    assert never == WarmUp(calls=10, settled=False)


def test_warm_up_has_a_time_limit() -> None:
    assert warm_up(lambda n: time.sleep(2 * LIMIT_S), seconds=LIMIT_S).calls == 1


def test_the_harness_costs_under_one_percent_of_a_5_ms_frame() -> None:
    """The fastest round: what other work on the machine adds is no cost of the harness."""
    samples = interleave({"empty": lambda n: None}, 2000, 60).samples["empty"]

    assert samples.min() < HARNESS_NS


def test_a_percentile_needs_ten_samples_beyond_it() -> None:
    few, some, many = (latency(np.full(n, 1_000_000, np.int64)) for n in (99, 1000, 10_000))

    assert few.p90_ms is None
    assert (some.p90_ms, some.p99_ms, some.p99_9_ms) == (1.0, 1.0, None)
    assert many.p99_9_ms == 1.0


def test_under_ten_samples_there_is_no_interval_and_it_is_said() -> None:
    few, enough = (np.arange(1, n + 1) * 1_000_000 for n in (ENOUGH - 1, ENOUGH))

    assert (latency(few).p50_low_ms, latency(few).p50_high_ms) == (None, None)
    assert None not in (latency(enough).p50_low_ms, latency(enough).p50_high_ms)
    assert ratio_of_medians(few, few) == (1.0, None, None)
    assert median_of_ratios(few, few) == (1.0, None, None)
    assert in_words(None, None) == "too few samples"
    assert in_words(1.0, 2.0) == "1.00 to 2.00"


def test_the_ratio_has_an_interval_that_holds_it() -> None:
    rng = np.random.default_rng(1)
    fast = rng.normal(1e6, 1e4, 200).astype(np.int64)
    ratio, low, high = ratio_of_medians(2 * fast, fast)

    assert ratio == 2.0
    assert low is not None
    assert high is not None
    assert low <= ratio <= high


def test_a_95_percent_interval_holds_the_truth_about_19_times_in_20() -> None:
    """Both meet the same slow spells, as neighbours in a round do; 30 of 40 leaves room for chance."""
    held = found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        spells = np.repeat(rng.uniform(1, 3, 20), 5)
        a, b = (1e6 * spells * rng.normal(1, 0.03, 100) for _ in range(2))
        _, low, high = median_of_ratios((1.1 * a).astype(np.int64), b.astype(np.int64))
        assert low is not None
        assert high is not None
        held += low <= 1.1 <= high
        found += low > 1.05

    assert held >= 30
    assert found == 40


def test_many_rounds_take_little_memory() -> None:
    samples = np.arange(20_000) + 1

    tracemalloc.start()
    try:
        latency(samples)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < 200e6


def test_the_interval_is_wide_where_the_machine_was_noisy() -> None:
    rng = np.random.default_rng(3)
    quiet, noisy = (latency((1e6 * rng.lognormal(0, spread, 100)).astype(np.int64)) for spread in (0.01, 0.5))

    quiet_ms, noisy_ms = ((found.p50_high_ms or 0) - (found.p50_low_ms or 0) for found in (quiet, noisy))
    assert quiet_ms < 0.02
    assert noisy_ms > 0.1
