"""`validate --hop`: machines without PyTorch judge by the stored reference."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segpipe.errors import (
    ArtifactMissingError,
    BackendError,
    GateFailedError,
    InputError,
    NotValidatedError,
)
from segpipe.local_verdicts import FRAMES
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.cuda.driver_library import gpu_name
from segpipe.runtime.segmenter import Segmenter
from segpipe.verdict import FILE_NAME, STAGE, VERDICTS, LocalVerdict, local_files, stored_verdicts
from stages.measuring.tensors import FP16_MAX
from stages.pipeline import Selection, run_stages
from stages.results.gate import GateReport
from stages.validate.hops.opening import stale_engine
from stages.validate.hops.stored import StoredReference, _packed
from stages.validate.without_pytorch import gate_peak, judge_stored, keep, validate_hop
from tests.calling import call
from tests.planted_table import break_graph
from tests.trained import edit_graph, replace_output, trained_config

GATE = Selection("validate", "validate")


def test_a_machine_without_pytorch_judges_by_the_stored_reference(trained_copy: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from segpipe.rundir.directory import RunDirectory
from stages.validate.without_pytorch import validate_hop
print("; ".join(validate_hop(RunDirectory(Path({str(trained_copy)!r})), "onnxruntime-cpu")))
print(*sorted({{name.partition('.')[0] for name in sys.modules}}))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    said, loaded = result.stdout.splitlines()

    assert said == "export/model.onnx on onnxruntime-cpu (cpu): passed"
    assert not {"torch", "onnx", "lightning", "PIL", "jinja2", "safetensors", "tensorrt_rtx"} & set(loaded.split())


def test_judging_elsewhere_leaves_the_run_as_it_was_and_keeps_its_report_beside_it(
    trained_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = RunDirectory(trained_copy).manifest
    validate_hop(RunDirectory(trained_copy), "onnxruntime-cpu")
    caplog.set_level(logging.INFO)
    run_stages(trained_copy, trained_config(trained_copy), trained_copy, GATE)

    assert RunDirectory(trained_copy).manifest == before
    ((_, local),) = local_files(RunDirectory(trained_copy))
    assert isinstance(local, LocalVerdict)
    assert set(GateReport.model_validate(local.report).hops) == {"onnxruntime-cpu"}
    assert caplog.records[-1].message == "validate: fresh, nothing to do"


def test_a_broken_artifact_fails_elsewhere_too(trained_copy: Path) -> None:
    break_graph(trained_copy)

    code, _, err = call("validate", trained_copy, "--hop", "onnxruntime-cpu")

    assert code == 3
    assert "hop 'onnxruntime-cpu': relative_l2" in err
    with pytest.raises(NotValidatedError, match="was judged: failed"):
        Segmenter.open(trained_copy)


def test_what_failed_on_all_images_stays_failed_where_the_stored_images_pass(trained_copy: Path) -> None:
    run = RunDirectory(trained_copy)
    failed = [entry.model_copy(update={"status": "failed"}) for entry in stored_verdicts(run)]
    replace_output(run, STAGE, FILE_NAME, VERDICTS.dump_json(tuple(failed)))

    with pytest.raises(GateFailedError, match=r"gate failed it here on all its images: export/model\.onnx on onnx"):
        validate_hop(RunDirectory(trained_copy), "onnxruntime-cpu")
    with pytest.raises(NotValidatedError, match="was judged: failed"):
        Segmenter.open(trained_copy)


def test_labels_that_failed_the_gate_fail_the_stored_images_too(trained_copy: Path) -> None:
    run = RunDirectory(trained_copy)
    report = GateReport.model_validate_json(run.artifact_bytes(STAGE, "report.json"))
    wrong = tuple(check.model_copy(update={"status": "failed"}) for check in report.data_checks)
    text = report.model_copy(update={"data_checks": wrong}).model_dump_json()
    replace_output(run, STAGE, "report.json", text.encode())

    with pytest.raises(GateFailedError, match="data: reference_miou_share"):
        validate_hop(RunDirectory(trained_copy), "onnxruntime-cpu")
    with pytest.raises(NotValidatedError, match="was judged: failed"):
        Segmenter.open(trained_copy, "onnxruntime-cpu")


def test_activations_are_as_the_gate_measured_them(trained_run: Path) -> None:
    run = RunDirectory(trained_run)
    report = GateReport.model_validate_json(run.artifact_bytes(STAGE, "report.json"))
    check = next(check for check in report.hops["fp16"].checks if check.name == "fp16_range")
    peak = gate_peak(run, report)

    assert peak is not None
    assert check.value is not None
    assert peak.value == pytest.approx(check.value * FP16_MAX)


def test_a_gate_that_ran_meanwhile_keeps_its_verdicts(trained_copy: Path) -> None:
    run = RunDirectory(trained_copy, frozenset({STAGE}))
    report = judge_stored(run, "onnxruntime-cpu").model_copy(update={"basis_sha256": "0" * 64})
    before = stored_verdicts(run)

    with pytest.raises(InputError, match=r"the gate ran anew meanwhile.*run the same command again"):
        keep(run, report)
    assert stored_verdicts(RunDirectory(trained_copy)) == before


def test_an_engine_that_cannot_run_here_says_why_and_changes_nothing(trained_copy: Path) -> None:
    before = (trained_copy / "manifest.json").read_bytes()

    said = r"'engine' could be judged: no NVIDIA GPU here\. run it on the GPU server, or .*--hop onnxruntime-cpu`"
    said = said if gpu_name() is None else r"no hop 'engine' could be judged here: build/model\.rtx\.engine"
    with pytest.raises(BackendError, match=said):
        validate_hop(RunDirectory(trained_copy), "engine")
    assert (trained_copy / "manifest.json").read_bytes() == before


def test_an_engine_built_from_another_graph_is_told(trained_copy: Path) -> None:
    run = RunDirectory(trained_copy)
    assert stale_engine(run) is None
    graph = edit_graph(run.artifact_bytes("export", "model.fp16.onnx"), lambda _, values: values * 1.001)
    replace_output(run, "export", "model.fp16.onnx", graph)

    with pytest.raises(
        BackendError, match=r"the engine was built from another export/model\.fp16\.onnx.*segpipe build"
    ):
        validate_hop(RunDirectory(trained_copy), "engine")


def test_without_a_stored_reference_the_next_action_is_named(trained_copy: Path) -> None:
    run = RunDirectory(trained_copy)
    stages = {name: record for name, record in run.manifest.stages.items() if name != STAGE}
    manifest = run.manifest.model_copy(update={"stages": stages}).model_dump_json(by_alias=True)
    (trained_copy / "manifest.json").write_text(manifest)

    with pytest.raises(ArtifactMissingError, match=r"holds no stored reference.*segpipe validate"):
        validate_hop(RunDirectory(trained_copy), "engine")


def test_frames_that_the_reference_never_saw_are_refused(trained_copy: Path) -> None:
    run = RunDirectory(trained_copy)
    stored = StoredReference(run)
    frames = {f"frame_{n}": image.frame ^ np.uint8(1) for n, image in enumerate(stored.images())}
    replace_output(run, STAGE, FRAMES, _packed(frames))

    with pytest.raises(InputError, match="is not the frame the reference saw"):
        StoredReference(RunDirectory(trained_copy)).images()
