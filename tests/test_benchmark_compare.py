"""`benchmark compare`: a slowdown is told from noise, report files get ratios and no verdict."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from segpipe.cli import app
from segpipe.errors import GateFailedError
from segpipe.rundir.directory import RunDirectory
from stages.benchmark.duel import Outcome, Terms, compare_runs, duel, judge, require_within_margin
from stages.measuring.rounds import ENOUGH
from tests.tiny import tiny_config, write_tiny

FRAMES = [np.zeros((8, 8, 3), np.uint8)]
WORK_S = 0.002


def work(seconds: float) -> Any:
    """A contestant that spends this much of its own processor time: other work on the machine is not counted as its."""

    def call(_: NDArray[Any]) -> None:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    return call


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


def test_load_while_two_runs_are_compared_is_told(finished_run: Path, tmp_path: Path) -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        outcome = compare_runs((finished_run, finished_run), tiny_config(tmp_path), "onnxruntime-cpu", Terms(3, 1))
    finally:
        for process in busy:
            process.kill()
            process.wait()

    assert outcome.disturbed[0].startswith("other work had ")
    assert outcome.disturbed[0] in outcome.line()


def test_a_great_slowdown_is_found_live_and_fails_the_gate() -> None:
    """Threefold, since the machine that runs the tests may be doing much else."""
    outcome = duel(work(WORK_S), work(3 * WORK_S), FRAMES, Terms(margin=0.05, seconds=20))

    assert outcome.verdict == "slower"
    assert (outcome.low or 0) > 1.05
    with pytest.raises(GateFailedError, match=r"takes \d\.\d+ times as long"):
        require_within_margin(outcome, 0.05)


def test_a_faster_run_passes() -> None:
    outcome = duel(work(3 * WORK_S), work(WORK_S), FRAMES, Terms(seconds=20))

    assert outcome.verdict == "within the margin"
    require_within_margin(outcome, 0.05)


def test_what_is_not_decided_is_no_failure_but_says_so() -> None:
    outcome = Outcome(ratio=1.06, low=0.9, high=1.2, rounds=60, a_ms=1, b_ms=1.06, verdict="not decided")

    require_within_margin(outcome, 0.05)
    assert outcome.as_dict()["verdict"] == "not decided"


def test_the_time_limit_holds() -> None:
    start = time.monotonic()
    duel(work(0.01), work(0.01), FRAMES, Terms(margin=0.0, seconds=0.3))

    assert time.monotonic() - start < 5


def test_two_runs_are_compared_live(finished_run: Path) -> None:
    arguments = [
        "benchmark",
        "compare",
        str(finished_run),
        str(finished_run),
        "--margin",
        "3",
        "--seconds",
        "3",
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
