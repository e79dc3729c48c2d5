"""The maths of measuring."""

import time

import numpy as np

from stages.timing import interleave, latency, ratio_of_medians


def test_contestants_take_turns_and_warm_up_is_not_counted() -> None:
    order: list[tuple[str, int]] = []
    samples = interleave(
        {"a": lambda n: order.append(("a", n)), "b": lambda n: order.append(("b", n))}, 2, 60, warm_up=1
    )

    assert order == [("a", -1), ("b", -1), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert {name: len(values) for name, values in samples.items()} == {"a": 2, "b": 2}


def test_the_time_limit_ends_with_a_whole_round() -> None:
    samples = interleave({"a": lambda n: time.sleep(0.02), "b": lambda n: None}, 1000, seconds=0.05)

    assert 1 <= len(samples["a"]) == len(samples["b"]) < 10


def test_a_percentile_needs_ten_samples_beyond_it() -> None:
    few, many = (np.full(n, 1_000_000, np.int64) for n in (99, 1000))

    assert latency(few).p90_ms is None
    assert latency(many).p90_ms == latency(many).p99_ms == 1.0


def test_the_ratio_has_an_interval_that_holds_it() -> None:
    rng = np.random.default_rng(1)
    fast = rng.normal(1e6, 1e4, 200).astype(np.int64)
    ratio, low, high = ratio_of_medians(2 * fast, fast)

    assert ratio == 2.0
    assert low <= ratio <= high
