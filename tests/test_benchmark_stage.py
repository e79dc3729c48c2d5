"""The benchmark stage: who takes part, what is listed with a reason, what a report holds, Ctrl-C."""

import csv
import json
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from segpipe.cli import app
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.manifest import save
from segpipe.runtime.opening import run_contract
from stages.benchmark import graph_peers
from stages.benchmark.contestants import OurBackends, Scene
from stages.benchmark.table import remarks, rows
from stages.pipeline import Selection, run_stages
from stages.report import write_report
from stages.results.benchmark import SCHEMA_FILE, Entry, Report, schema_text
from tests.children import PATIENCE_S, child
from tests.interrupts import pressed_after
from tests.tiny import tiny_config

OURS, EAGER = "segpipe onnxruntime-cpu", "PyTorch eager FP32"
BENCHMARK = Selection("benchmark", "benchmark")
TELLING = """
import logging, sys
from segpipe.cli import main
def tell(frame, event, argument):
    if (event, frame.f_code.co_name) == ("return", "_one_round"):
        sys.setprofile(None)
        print("a round is done", file=sys.stderr, flush=True)
def watch(record):
    if "take turns" in record.getMessage():
        sys.setprofile(tell)
    return True
logging.getLogger("stages.benchmark.contest").addFilter(watch)
main()
"""
"""The command, which also says when the first round of its benchmark is over."""


def report_of(run: Path) -> Report:
    """The run's benchmark."""
    return Report.model_validate_json(RunDirectory(run).artifact_bytes("benchmark", "report.json"))


def entry(report: Report, name: str) -> Entry:
    """One contestant."""
    return next(found for found in report.contestants if found.name == name)


def without_stage(run: Path, stage: str) -> Path:
    """Forget a stage, as if it had never run."""
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["stages"][stage]
    (run / "manifest.json").write_text(json.dumps(manifest))
    return run


def test_the_committed_schema_is_the_reports(finished_run: Path) -> None:
    assert SCHEMA_FILE.read_text() == schema_text(), "write it anew with `python -m stages.benchmark`"
    content = json.loads(RunDirectory(finished_run).artifact_bytes("benchmark", "report.json"))
    assert set(json.loads(schema_text())["properties"]) == set(content)
    with pytest.raises(ValueError, match="surprise"):
        Report.model_validate({**content, "surprise": 1})


def test_every_sample_is_kept_and_the_medians_are_theirs(finished_run: Path) -> None:
    report = report_of(finished_run)
    samples: dict[str, list[int]] = {}
    with RunDirectory(finished_run).artifact("benchmark", "samples.csv").open() as file:
        for row in csv.DictReader(file):
            samples.setdefault(row["contestant"], []).append(int(row["nanoseconds"]))

    measured = {found.name: found.latency for found in report.contestants if found.latency}
    assert set(samples) == set(measured)
    for name, latency in measured.items():
        assert latency.samples == len(samples[name]) == 3
        assert latency.p50_ms == pytest.approx(np.median(samples[name]) / 1e6, abs=1e-4)
        assert latency.p90_ms is None  # three samples say nothing of a tail,
        assert latency.p50_low_ms is None  # nor of the median's spread


def test_contestants_that_cannot_run_are_listed_with_the_reason(finished_run: Path) -> None:
    report = report_of(finished_run)

    assert entry(report, EAGER).latency is not None
    assert entry(report, OURS).validated is True
    missing = entry(report, "segpipe tensorrt")
    assert missing.latency is None
    assert missing.reason
    assert any("segpipe tensorrt" in line for line in remarks(report))
    assert next(row[0] for row in rows(report)) == OURS


def test_masks_are_compared_with_pytorch_before_timing(finished_run: Path) -> None:
    report = report_of(finished_run)

    assert report.reference == EAGER
    assert entry(report, EAGER).agreement == 1.0
    assert entry(report, OURS).same_answer is True
    assert entry(report, "onnxruntime-cpu, network alone").agreement is None


def test_the_budget_or_why_there_is_none_and_the_extras_are_there(finished_run: Path) -> None:
    report = report_of(finished_run)

    if report.budget is None:  # other work took part in one of them
        assert "other work disturbed" in report.missing["budget"]
        assert f"no budget: {report.missing['budget']}" in remarks(report)
    else:
        (told,) = [line for line in remarks(report) if line.startswith("budget: pre ")]  # without transfers on a CPU
        names = [step.split()[0] for step in told.removeprefix("budget: ").split(", ")]
        assert names == ["pre", "network", "post", "rest"]
    assert [t.count for t in report.batches] == [t.count for t in report.callers] == [1, 2]
    assert report.memory is not None
    assert report.memory.host_peak_bytes > report.memory.host_before_bytes > 10_000_000
    assert report.floor is not None
    assert report.floor.operations > 0
    assert "energy" in report.missing or report.energy_joules is not None


def test_the_configured_threads_are_those_that_measure(run_copy: Path) -> None:
    config = tiny_config(run_copy, "benchmark.peers=[]", "benchmark.threads=3", "benchmark.rounds=4")
    without_stage(run_copy, "benchmark")  # threads say how fast, not what: alone they make nothing stale
    run_stages(run_copy, config, run_copy, BENCHMARK)

    assert report_of(run_copy).threads == 3


def test_onnx_runtime_gets_the_same_threads_as_a_peer_and_as_ours(finished_run: Path) -> None:
    """A pool of three is the calling thread and two more."""
    run = RunDirectory(finished_run)
    scene = Scene([np.zeros((48, 80, 3), np.uint8)], run_contract(run), threads=3)
    ours = OurBackends(run, scene)
    candidates = [
        *ours.candidates(),
        *graph_peers.candidates(lambda: run.artifact_bytes("export", "model.onnx"), scene),
    ]

    held = []
    for name in (OURS, graph_peers.ORT):
        before = len(list(Path("/proc/self/task").iterdir()))
        held.append(next(candidate for candidate in candidates if candidate.name == name).open())
        assert len(list(Path("/proc/self/task").iterdir())) == before + 2, name
    ours.close()


def test_figures_of_other_packages_are_measured_anew_and_it_says_so(
    run_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    record = manifest["stages"]["benchmark"]
    assert record["params"]["machine"]["torch"] == torch.__version__.partition("+")[0]
    record["params"]["machine"]["torch"], record["key"] = "2.0", "0" * 64
    (run_copy / "manifest.json").write_text(json.dumps(manifest))

    with caplog.at_level("INFO", "segpipe"), caplog.at_level("INFO", "stages"):
        run_stages(run_copy, tiny_config(run_copy), run_copy, BENCHMARK)

    assert "benchmark: machine.torch 2.0 -> " in caplog.text


def test_an_unvalidated_run_without_engines_is_measured_with_a_loud_mark(run_copy: Path) -> None:
    without_stage(without_stage(run_copy, "validate"), "build")
    run_stages(run_copy, tiny_config(run_copy, "benchmark.peers=[]"), run_copy, BENCHMARK)
    report = report_of(run_copy)

    assert report.unvalidated[0] == OURS
    assert remarks(report)[0].startswith("NOT VALIDATED: segpipe onnxruntime-cpu")


def test_a_run_without_checkpoint_is_measured_without_the_pytorch_contestants(run_copy: Path) -> None:
    without_stage(run_copy, "train")
    run_stages(run_copy, tiny_config(run_copy), run_copy, BENCHMARK)
    report = report_of(run_copy)

    assert "imported run" in entry(report, EAGER).reason
    assert report.reference == OURS
    assert entry(report, "ONNX Runtime, PyTorch pre/post").latency is not None
    assert "faster_than_eager" not in RunDirectory(run_copy).record("benchmark").figures


def test_ctrl_c_again_keeps_the_later_figures_and_the_next_command_measures_in_full(run_copy: Path) -> None:
    endless = tiny_config(run_copy, "benchmark.peers=[]", "benchmark.rounds=1000000", "benchmark.seconds=600")
    kept = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), pressed_after("take turns"):
            run_stages(run_copy, endless, run_copy, BENCHMARK)
        kept.append(RunDirectory(run_copy).record("benchmark"))
    partial = report_of(run_copy)
    run_stages(run_copy, tiny_config(run_copy, "benchmark.peers=[]"), run_copy, BENCHMARK)

    assert partial.partial
    assert kept[0].outputs["samples.csv"] != kept[1].outputs["samples.csv"]
    assert not report_of(run_copy).partial


def test_a_real_ctrl_c_keeps_what_was_measured_and_exits_130(run_copy: Path) -> None:
    settings = ("benchmark.rounds=1000000", "benchmark.seconds=600", "benchmark.peers=[]")
    words = [word for setting in settings for word in ("--set", setting)]
    with child(sys.executable, "-c", TELLING, "benchmark", str(run_copy), *words) as process:
        assert process.stderr is not None
        assert any(line == "a round is done\n" for line in process.stderr)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130, said
    assert "marked partial" in said
    report = report_of(run_copy)
    ours = entry(report, OURS).latency
    assert report.partial
    assert ours is not None
    assert 1 <= ours.samples < 1_000_000
    assert "<strong>Partial.</strong>" in write_report(RunDirectory(run_copy)).read_text()


def test_the_command_prints_the_table_and_run_may_be_left_out(run_copy: Path) -> None:
    short, long = (CliRunner().invoke(app, ["benchmark", *words, str(run_copy)]) for words in ([], ["run"]))

    assert short.exit_code == 0
    assert OURS in short.stdout
    assert "frames a second by batch" in short.stdout
    assert short.stdout == long.stdout


def test_too_few_samples_are_told_in_the_table_in_show_and_on_the_page(finished_run: Path, tmp_path: Path) -> None:
    report = report_of(finished_run)
    page = write_report(RunDirectory(finished_run), tmp_path / "report.html").read_text()
    shown = CliRunner().invoke(app, ["show", str(finished_run)]).stdout

    assert next(row[2] for row in rows(report)) == "too few samples"
    assert "too few samples: 3" in shown
    assert '<span class="failed">too few samples: 3</span>' in page


def test_load_that_disturbed_is_told_in_the_headline_in_show_and_when_reports_are_compared(
    run_copy: Path, tmp_path: Path
) -> None:
    said = "other work had 44% of the processor while this was measured"
    run, report = RunDirectory(run_copy), report_of(run_copy)
    disturbed = report.model_copy(update={"conditions": report.conditions.model_copy(update={"warnings": (said,)})})
    (tmp_path / "report.json").write_text(disturbed.model_dump_json())
    figures = {**run.record("benchmark").figures, "doubts": disturbed.doubts}
    record = run.record("benchmark").model_copy(update={"figures": figures})
    save(run_copy, run.manifest.with_stage("benchmark", record, None))
    compared = CliRunner().invoke(app, ["benchmark", "compare", *[str(tmp_path / "report.json")] * 2])

    assert said in disturbed.doubts
    assert f"warning: {said}" in remarks(disturbed)
    assert said in CliRunner().invoke(app, ["show", str(run_copy)]).stdout
    assert said in compared.stderr


def test_frames_that_are_not_there_are_named(run_copy: Path) -> None:
    shutil.rmtree(run_copy / "benchmark")
    (run_copy / "segpipe.toml").write_text(
        '[data]\nkind = "folder"\nroot = "nowhere"\nclasses = ["a", "b"]\n[input]\nheight = 64\nwidth = 96\n'
    )
    result = CliRunner().invoke(app, ["benchmark", str(run_copy)])

    assert result.exit_code == 1
    assert "nowhere does not exist" in result.stderr
