"""What `Segmenter.open` refuses, and what it says then."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from segpipe import testing
from segpipe.errors import (
    ArtifactDamagedError,
    ArtifactMissingError,
    BackendError,
    BackendMissingError,
    ContractError,
    InputError,
    NotValidatedError,
)
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.backends import load_opener
from segpipe.runtime.opening import Wanted, open_run
from segpipe.runtime.request import OpenOptions
from segpipe.runtime.segmenter import Segmenter
from tests.children import ROOT
from tests.tiny_graphs import plain, weights

FIXED = testing.CONTRACT.model_copy(update={"fit": "stretch", "network_size": (64, 96)})


def test_an_unknown_backend_is_refused_with_the_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="onnxruntime-cpu"):
        Segmenter.open(testing.make_run(tmp_path), "onnx")


@pytest.mark.parametrize("status", ["failed", "not judged"])
def test_an_artifact_that_did_not_pass_is_refused(tmp_path: Path, status: str) -> None:
    run = testing.make_run(tmp_path, status=status)

    with pytest.raises(NotValidatedError, match=status):
        Segmenter.open(run)
    Segmenter.open(run, allow_unvalidated=True).close()


def test_a_run_without_verdicts_is_refused_with_the_command(tmp_path: Path) -> None:
    run = testing.make_run(tmp_path)
    stages = RunDirectory(run).manifest.stages
    (run / stages["validate"].path / "verdicts.json").unlink()

    with pytest.raises(ArtifactMissingError, match="segpipe run"):
        Segmenter.open(run, "onnxruntime-cpu")


def test_a_tampered_artifact_is_refused(tmp_path: Path) -> None:
    run = testing.make_run(tmp_path)
    model = RunDirectory(run).artifact("export", "model.onnx")
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)

    with pytest.raises(ArtifactDamagedError, match="changed after it was made"):
        Segmenter.open(run)


def test_a_graph_of_another_contract_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="network_size"):
        load_opener("onnxruntime-cpu")(testing.make_onnx(FIXED), testing.CONTRACT, OpenOptions())


def test_the_application_s_onnxruntime_logger_is_left_alone(tmp_path: Path) -> None:
    script = f"""
import onnxruntime
onnxruntime.set_default_logger_severity(0)
from segpipe import Segmenter, testing
Segmenter.open({str(testing.make_run(tmp_path))!r}).close()
print("ours is closed", flush=True)
onnxruntime.InferenceSession(testing.make_onnx(testing.CONTRACT), providers=["CPUExecutionProvider"])
"""
    said = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    ).stdout

    assert ":onnxruntime:" in said.partition("ours is closed")[2]


def test_bytes_that_are_no_graph_are_a_clear_error() -> None:
    with pytest.raises(BackendError, match="cannot load"):
        load_opener("onnxruntime-cpu")(b"not a graph", testing.CONTRACT, OpenOptions())


def test_an_engine_that_was_not_built_is_refused_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissingError, match="--until build"):
        Segmenter.open(testing.make_run(tmp_path), "tensorrt")


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="it is installed here")
def test_a_backend_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(BackendMissingError, match=r"pip install .*'segpipe\[tensorrt\]'"):
        load_opener("tensorrt")(b"", testing.CONTRACT, OpenOptions())


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a run directory"):
        Segmenter.open(tmp_path)


@pytest.mark.parametrize("status", ["passed", "failed"])
def test_a_run_that_was_made_anew_meanwhile_is_opened_as_it_is_now(tmp_path: Path, status: str) -> None:
    path = testing.make_run(tmp_path)
    reader = RunDirectory(path)
    testing.make_run(path, FIXED, status=status)

    if status == "failed":
        with pytest.raises(NotValidatedError, match="failed"):
            open_run(reader, Wanted("onnxruntime-cpu"), OpenOptions())
        return
    backend, sha256 = open_run(reader, Wanted("onnxruntime-cpu"), OpenOptions())
    backend.close()
    assert sha256 == RunDirectory(path).recorded("export", "model.onnx").sha256


def test_an_export_of_an_earlier_checkpoint_is_opened_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDirectory(testing.make_run(tmp_path))
    Segmenter.open(run.path).close()
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    export = {name: run.artifact_bytes("export", name) for name in run.record("export").outputs}
    for checkpoint in ("one", "two"):
        with run.step("train", {}, {"seed": checkpoint}) as step:
            step.path("model.safetensors").write_text(checkpoint)
        if checkpoint == "one":
            with run.step("export", [run.artifact("train", "model.safetensors")], {}) as step:
                for name, content in export.items():
                    step.path(name).write_bytes(content)

    Segmenter.open(run.path).close()

    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "made from another train/model.safetensors than the run holds now" in warnings[0]


def test_the_applications_own_sessions_log_as_it_likes(tmp_path: Path) -> None:
    """ONNX Runtime's default severity belongs to the process: importing segpipe must not change it."""
    model = plain()
    model.graph.initializer.append(weights("nobody_reads_this", 2))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    code = (
        "import sys, onnxruntime, segpipe.runtime.backends.onnxruntime\n"
        "onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.onnx")]

    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stderr

    assert "nobody_reads_this" in told
