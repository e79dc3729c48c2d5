"""What an older version left opens, verifies, shows, reports and stays fresh, whatever changes here."""

import logging
from pathlib import Path

import numpy as np
import pytest

from segpipe import Segmenter
from segpipe.bundle import write_bundle
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.status import run_status
from segpipe.rundir.verify import verify
from segpipe.verdict import stored_verdicts
from stages.config.file import load_config
from stages.models import checkpoint
from stages.pipeline import Selection, run_stages
from stages.report import write_report
from stages.results.benchmark import read_report as read_benchmark
from stages.results.gate import read_report as read_gate
from stages.validate.hops.stored import StoredReference
from stages.validate.pages import page
from tests.old_runs import ARCHIVE, as_built_here, unpack

FRAME = np.zeros((40, 50, 3), np.uint8)


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    return unpack("run", tmp_path)


@pytest.fixture
def old_bundle(tmp_path: Path) -> Path:
    return unpack("bundle", tmp_path)


def test_the_stored_runs_stay_small() -> None:
    assert ARCHIVE.stat().st_size < 1_000_000


@pytest.mark.parametrize("name", ["run", "bundle"])
def test_it_opens_on_the_verdict_it_has(name: str, tmp_path: Path) -> None:
    with Segmenter.open(unpack(name, tmp_path), backend="onnxruntime-cpu") as segmenter:
        mask = segmenter(FRAME)
        classes = segmenter.contract.classes

    assert mask.shape == FRAME.shape[:2]
    assert classes == ("background", "disc", "box", "triangle", "ring")


@pytest.mark.parametrize("name", ["run", "bundle"])
def test_every_file_of_it_is_intact(name: str, tmp_path: Path) -> None:
    checked, findings = verify(RunDirectory(unpack(name, tmp_path)))

    assert checked > 10
    assert findings == []


def test_every_stage_of_it_shows_fresh(old_run: Path) -> None:
    lines = run_status(RunDirectory(old_run))

    assert [(line.stage, line.state) for line in lines] == [
        (stage, "fresh") for stage in ("train", "export", "build", "validate", "benchmark")
    ]
    assert all(line.headline for line in lines)


def test_its_report_is_written(old_run: Path) -> None:
    text = write_report(RunDirectory(old_run)).read_text()

    for word in ("triangle", "PyTorch eager FP32", "segpipe onnxruntime-cpu"):
        assert word in text


def test_its_gates_page_is_written(old_run: Path) -> None:
    run = RunDirectory(old_run)
    report = read_gate(run.artifact_bytes("validate", "report.json"), "it", "again")
    verdicts = stored_verdicts(run)
    pictures = {picture.file: run.artifact_bytes("validate", picture.file) for picture in report.pictures}

    assert "model.fp16.onnx" in page.html(report, verdicts, pictures)
    assert "model.fp16.onnx" in page.markdown(report, verdicts)
    assert {verdict.status for verdict in verdicts} == {"passed", "not judged"}


def test_its_benchmark_and_stored_reference_are_read(old_run: Path) -> None:
    run = RunDirectory(old_run)

    assert read_benchmark(run.artifact_bytes("benchmark", "report.json"), "it").contestants
    assert StoredReference(run).images()


def test_its_checkpoint_is_still_a_network(old_run: Path) -> None:
    trained = checkpoint.from_bytes(RunDirectory(old_run).artifact_bytes("train", checkpoint.FILE_NAME))

    assert trained.contract.sha256 == RunDirectory(old_run).manifest.contract_sha256
    assert len(trained.palette) == len(trained.contract.classes)


def test_train_export_and_build_stay_fresh(old_run: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before = (as_built_here(old_run) / "manifest.json").read_bytes()
    run_stages(old_run, load_config(old_run, ()), old_run, Selection(last="build"))

    assert [message for message in caplog.messages if message.endswith("fresh, nothing to do")] == [
        f"{stage}: fresh, nothing to do" for stage in ("train", "export", "build")
    ]
    assert (old_run / "manifest.json").read_bytes() == before


def test_a_bundle_is_made_of_it_again(old_run: Path, tmp_path: Path) -> None:
    bundle = write_bundle(RunDirectory(old_run), tmp_path / "again")

    assert verify(RunDirectory(bundle))[1] == []


def test_its_half_done_training_comes_to_an_end(tmp_path: Path) -> None:
    half = unpack("half-done", tmp_path)
    assert [(line.stage, line.state) for line in run_status(RunDirectory(half))] == [("train", "in progress")]
    run = run_stages(half, load_config(half, ()), half, Selection(last="train"))

    assert len(run.artifact_bytes("train", "history.csv").splitlines()) == 1 + 3, "a line an epoch under the head"
    assert verify(run)[1] == []
