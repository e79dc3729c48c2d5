"""The GPU suite on a machine without one: every step starts, says what it needs, and the result fits its schema."""

import json
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as main_module
from benchmarks.gpu.__main__ import _ended, _reported
from benchmarks.gpu.plan import NAMES, STEPS, Step, chosen, fitting
from benchmarks.gpu.results import SCHEMA_FILE, SuiteResult, load, schema_text
from benchmarks.gpu.steps import tests as tests_step
from benchmarks.gpu.steps.flavours import noting
from segpipe.errors import BackendError, InputError
from tests.children import PATIENCE_S


def suite(out: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`python -m benchmarks.gpu`."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_dry_run_starts_steps_and_runs_nothing_on_a_gpu(tmp_path: Path) -> None:
    named = "doctor", "flavours", "kernels"
    result = suite(tmp_path, "--dry-run", *(word for name in named for word in ("--only", name)))
    steps = SuiteResult.model_validate_json((tmp_path / "results.json").read_bytes()).steps

    assert result.returncode == 0, result.stderr
    assert tuple(steps) == named
    assert steps.pop("doctor").state == "passed"
    assert {step.state for step in steps.values()} == {"not run"}
    assert all("needs an NVIDIA GPU" in step.detail for step in steps.values())
    assert len(list(tmp_path.iterdir())) <= 8


@pytest.mark.parametrize("name", NAMES)
def test_every_step_can_be_started(name: str) -> None:
    """In this process: eleven that load PyTorch each would take a minute."""
    assert callable(import_module(f"benchmarks.gpu.steps.{name}").run)


def test_what_passed_is_not_run_again(tmp_path: Path) -> None:
    suite(tmp_path, "--only", "doctor")
    again = suite(tmp_path, "--only", "doctor")

    assert again.stderr == ""
    assert "doctor" in json.loads((tmp_path / "results.json").read_text())["steps"]


def test_results_are_copied_as_they_come(tmp_path: Path) -> None:
    result = suite(tmp_path / "out", "--only", "doctor", "--copy", str(tmp_path / "copy"))

    assert result.returncode == 0, result.stderr
    assert load(tmp_path / "copy") == load(tmp_path / "out")
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {"results.json", "log.txt"}


def test_figures_of_a_step_that_still_runs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_module, "_EVERY_S", 0.1)
    kept: list[float] = []
    with (tmp_path / "log").open("wb") as log:
        ended = _ended([sys.executable, "-c", "import time; time.sleep(2)"], log, 1, lambda: kept.append(1))

    assert ended[0] == "timed out"
    assert len(kept) > 2


def test_an_unknown_step_is_a_usage_error(tmp_path: Path) -> None:
    assert suite(tmp_path, "--only", "magic").returncode == 2


def test_the_published_schema_is_the_models() -> None:
    assert SCHEMA_FILE.read_text() == schema_text()


def test_a_foreign_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"version": 7}')

    with pytest.raises(InputError, match="is no result of this suite"):
        load(tmp_path)


def test_the_step_tests_collects_every_gpu_test_and_no_other() -> None:
    root = Path(__file__).parents[1]
    marked = {path for path in (root / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()} - {Path(__file__)}
    given = [root / where for where in tests_step._WHERE]

    assert all(any(path == where or where in path.parents for where in given) for path in marked)
    assert all(where.is_dir() or where in marked for where in given)


def test_what_one_backend_refuses_does_not_stop_the_others() -> None:
    reached: dict[str, object] = {"reached": "import"}

    def refuse(error: Exception) -> None:
        with noting(reached):
            raise error

    for error in (BackendError("no"), RuntimeError("no"), AttributeError("no"), OSError("no")):
        refuse(error)
        assert reached["why"] == f"{type(error).__name__}: no"


def test_every_step_has_its_module() -> None:
    folder = Path(__file__).parents[1] / "benchmarks/gpu/steps"

    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == set(NAMES)


def test_the_most_valuable_step_that_fits_comes_next() -> None:
    long, short = Step("long", "", 300), Step("short", "", 60)

    assert fitting([long, short], 400) is long
    assert fitting([long, short], 100) is short
    assert fitting([long], 160) is long, "half its time may be enough"
    assert fitting([long], 100) is None


def test_done_and_unwanted_steps_are_left_out() -> None:
    assert [step.name for step in chosen(("demo", "tests"), {"tests"})] == ["demo"]
    assert [step.name for step in chosen(("networks",), ())] == ["exports", "networks"]
    assert [step.name for step in chosen(("networks",), {"exports"})] == ["networks"]
    assert chosen((), set(NAMES)) == []
    assert chosen((), ()) == list(STEPS)
    assert [step.name for step in chosen((), (), {"doctor"})][-1] == "doctor", "what failed before comes last"


def test_a_step_that_hangs_is_stopped_with_all_its_processes(tmp_path: Path) -> None:
    child = "import os, sys, time; pid = os.fork(); pid and open(sys.argv[1], 'w').write(str(pid)); time.sleep(60)"
    with (tmp_path / "log").open("wb") as log:
        ended = _ended([sys.executable, "-c", child, str(tmp_path / "pid")], log, 2, lambda: None)

    assert ended == ("timed out", "stopped after 2 s")
    grandchild = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + PATIENCE_S  # it was sent SIGKILL, and dies when the system gets to it
    while _is_running(grandchild) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(grandchild)


def _is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(") ")[2][0] != "Z"


@pytest.mark.parametrize(
    ("reported", "state", "detail", "figures"),
    [
        (None, "failed", "exit code -11", {}),
        ({"state": "failed", "figures": {"a": 1}}, "failed", "exit code -11", {"a": 1}),
        ({"state": "failed", "detail": "no GPU backend", "figures": {"a": 1}}, "failed", "no GPU backend", {"a": 1}),
        ({"state": "passed", "figures": {"a": 1}}, "passed", "", {"a": 1}),
    ],
)  # fmt: skip
def test_figures_outlive_the_step(
    tmp_path: Path, reported: dict[str, object] | None, state: str, detail: str, figures: dict[str, int]
) -> None:
    report = tmp_path / "report.json"
    if reported is not None:
        report.write_text(json.dumps({"seconds": 0, **reported}))

    result = _reported(report, 1.0, "failed", "exit code -11")

    assert (result.state, result.detail, result.figures) == (state, detail, figures)
