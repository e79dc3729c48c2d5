"""`benchmark compare`: a slowdown is told from noise, report files get ratios and no verdict."""

import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from segpipe.cli import app
from segpipe.errors import GateFailedError
from segpipe.rundir.directory import RunDirectory
from stages.benchmark.duel import DuelResult, Terms, compare_runs, duel, judge, require_within_margin
from stages.measuring.others import Moment, load_warnings, others_share
from stages.measuring.rounds import ENOUGH, OwnTime
from tests.tiny import tiny_config, write_tiny

FRAMES = [np.zeros((8, 8, 3), np.uint8)]
SECONDS = 8  # the first look is after one; enough rounds come on a busy machine too


def telling(times: NDArray[np.int64]) -> Callable[[NDArray[Any]], OwnTime]:
    """A contestant that tells these times one after the other, by a clock that no other work on the machine reaches."""
    left = itertools.cycle(times.tolist())
    return lambda _: OwnTime(next(left))


def rounds(slowdown: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Made-up rounds of a noisy machine: spells that both meet, and outliers that only one does."""
    rng = np.random.default_rng(seed)
    spells = np.repeat(rng.lognormal(0, 0.3, 24), 5)
    a, b = (5e6 * spells * rng.lognormal(0, 0.06, 120) for _ in range(2))
    a[rng.integers(0, 120, 6)] *= 4
    b[rng.integers(0, 120, 6)] *= 4
    return a.astype(np.int64), (slowdown * b).astype(np.int64)


@pytest.mark.parametrize("seed", range(10))
def test_ten_percent_are_told_from_noise(seed: int) -> None:
    assert judge(*rounds(1.10, seed), margin=0.05, over=True).verdict == "slower"
    assert judge(*rounds(1.00, seed), margin=0.05, over=True).verdict != "slower"


@pytest.mark.parametrize("seed", range(10))
def test_the_two_times_say_what_the_ratio_says(seed: int) -> None:
    """Medians of their own would not where the machine's speed changes from round to round."""
    a, b = rounds(1.02, seed)
    outcome = judge(a, np.roll(b, 3), margin=0.05, over=True)

    assert outcome.b_ms / outcome.a_ms == pytest.approx(outcome.ratio, abs=1e-4)


def test_few_rounds_decide_nothing_and_say_so() -> None:
    a = np.full(ENOUGH - 1, 5_000_000)
    outcome = judge(a, 2 * a, margin=0.05, over=True)

    assert outcome.verdict == "not decided"
    assert "B / A 2.000 (too few samples, 9 rounds): not decided" in outcome.line()


def test_other_works_share_of_the_processor_is_told_from_a_tenth_on() -> None:
    start, cores = Moment(wall=0, busy=0, own=0), os.cpu_count() or 1
    ours_alone, half = Moment(wall=10, busy=5, own=5), Moment(wall=10, busy=5 + 5 * cores, own=5)

    assert others_share(start, ours_alone) == 0
    assert others_share(start, half) == 0.5
    assert others_share(start, start) == 0
    assert load_warnings(0.5) == ("other work had 50% of the processor while this was measured",)
    assert load_warnings(0.09) == ()


def test_load_while_two_runs_were_compared_stands_in_the_outcomes_line() -> None:
    a, b = rounds(1.02, 0)
    outcome = replace(judge(a, b, margin=0.05, over=True), disturbed=load_warnings(0.5))

    assert outcome.line().endswith("; other work had 50% of the processor while this was measured")


def test_a_slowdown_is_found_turn_by_turn_and_fails_the_gate() -> None:
    a, b = rounds(1.5, 0)
    outcome = duel(telling(a), telling(b), FRAMES, Terms(margin=0.05, seconds=SECONDS))

    assert outcome.verdict == "slower"
    assert (outcome.low or 0) > 1.05
    with pytest.raises(GateFailedError, match=r"takes \d\.\d+ times as long"):
        require_within_margin(outcome, 0.05)


def test_a_faster_run_passes() -> None:
    a, b = rounds(0.5, 0)
    outcome = duel(telling(a), telling(b), FRAMES, Terms(seconds=SECONDS))

    assert outcome.verdict == "within the margin"
    require_within_margin(outcome, 0.05)


def test_what_is_not_decided_is_no_failure_but_says_so() -> None:
    outcome = DuelResult(ratio=1.06, low=0.9, high=1.2, rounds=60, a_ms=1, b_ms=1.06, verdict="not decided")

    require_within_margin(outcome, 0.05)
    assert outcome.as_dict()["verdict"] == "not decided"


def test_when_the_time_is_over_each_look_is_one_round() -> None:
    """The first call takes longer than the limit, however fast or busy the machine is."""
    called = []

    def call(_: NDArray[Any]) -> None:
        called.append(1)
        time.sleep(0.05)

    outcome = duel(call, call, FRAMES, Terms(margin=0.0, seconds=0.05))

    assert outcome.rounds == 4
    assert len(called) == 2 + 4 * 4, "a warm-up of each, and in each round two calls of both"


def test_two_runs_are_compared_live(finished_run: Path) -> None:
    arguments = [
        "benchmark",
        "compare",
        str(finished_run),
        str(finished_run),
        "--margin",
        "3",
        "--seconds",
        "8",
        "--json",
    ]
    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 0, result.stderr
    assert '"verdict": "within the margin"' in result.stdout


def test_a_run_that_the_gate_did_not_pass_is_compared_with_a_loud_mark(
    finished_run: Path, run_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    del manifest["stages"]["validate"]
    (run_copy / "manifest.json").write_text(json.dumps(manifest))
    config = tiny_config(run_copy)

    compare_runs((finished_run, run_copy), config, "onnxruntime-cpu", Terms(margin=3, seconds=0.5))

    (marked,) = [record.message for record in caplog.records if "NOT VALIDATED" in record.message]
    assert str(run_copy) in marked


def test_two_report_files_give_ratios_measured_apart_and_no_verdict(finished_run: Path) -> None:
    report = str(RunDirectory(finished_run).artifact("benchmark", "report.json"))
    result = CliRunner().invoke(app, ["benchmark", "compare", report, report])

    assert result.exit_code == 0
    assert "1.000 (measured apart)" in result.stdout
    assert "margin" not in result.stdout


def test_two_report_files_give_json(finished_run: Path) -> None:
    report = str(RunDirectory(finished_run).artifact("benchmark", "report.json"))
    pairs = json.loads(CliRunner().invoke(app, ["benchmark", "compare", report, report, "--json"]).stdout)

    assert "segpipe onnxruntime-cpu" in {pair["contestant"] for pair in pairs}
    assert all(pair["a_ms"] == pair["b_ms"] and pair["ratio"] == 1 for pair in pairs)


@pytest.mark.parametrize("option", [("--margin", "0.1"), ("--seconds", "5"), ("--backend", "onnxruntime-cpu")])
def test_report_files_take_no_terms_of_measuring(option: tuple[str, str], tmp_path: Path) -> None:
    report = str(tmp_path / "report.json")

    assert CliRunner().invoke(app, ["benchmark", "compare", report, report, *option]).exit_code == 2


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"latency": {}}')
    result = CliRunner().invoke(app, ["benchmark", "compare", str(tmp_path / "old.json"), str(tmp_path / "none.json")])

    assert result.exit_code == 1
    assert "old.json was written by another version of segpipe" in result.stderr


def test_a_run_with_nothing_exported_is_refused(finished_run: Path, tmp_path: Path) -> None:
    RunDirectory.create(write_tiny(tmp_path / "empty"))
    result = CliRunner().invoke(app, ["benchmark", "compare", str(finished_run), str(tmp_path / "empty")])

    assert result.exit_code == 1
    assert "stage 'export' has not run" in result.stderr
