"""Verdicts: across machines, edited, outdated, and limits that were not judged."""

import logging
from pathlib import Path

import pytest

from segpipe.errors import (
    ArtifactDamagedError,
    InputError,
    NotValidatedError,
)
from segpipe.local_verdicts import INDEX
from segpipe.processor import is_cpu
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.manifest import save, stage_key
from segpipe.verdict import FILE_NAME, STAGE, VERDICTS, Verdict, merged, require_passed, stored_verdicts
from stages.pipeline import Selection, run_stages
from stages.results.gate import GateReport, NotJudged
from stages.validate import machine
from stages.validate.hops.stored import StoredReference
from stages.validate.without_pytorch import validate_hop
from tests.calling import call
from tests.trained import replace_output, trained_config

GATE = Selection("validate", "validate")


def verdict(run: RunDirectory, device: str, **changes: str) -> Verdict:
    """A passed verdict of the run's engine."""
    fields = {
        "artifact": "build/model.rtx.engine",
        "artifact_sha256": run.record("build").outputs["model.rtx.engine"].sha256,
        "backend": "tensorrt-rtx",
        "device": device,
        "contract_sha256": run.manifest.contract_sha256 or "",
        "basis_sha256": StoredReference(run).index.basis_sha256,
        "status": "passed",
    }
    return Verdict.model_validate(fields | changes)


def store(run: RunDirectory, *verdicts: Verdict) -> None:
    """Commit verdicts beside those that are there, as judging elsewhere does."""
    replace_output(run, STAGE, FILE_NAME, VERDICTS.dump_json((*stored_verdicts(run), *verdicts)))


def test_a_verdict_of_one_gpu_survives_judging_another_and_judging_at_home(trained_copy: Path) -> None:
    run = RunDirectory(trained_copy)
    store(run, verdict(run, "GPU A"))
    validate_hop(RunDirectory(trained_copy), "onnxruntime-cpu")
    run_stages(trained_copy, trained_config(trained_copy), trained_copy, Selection("validate", "validate", force=True))

    now = RunDirectory(trained_copy)
    engine = verdict(now, "GPU A")
    assert engine in stored_verdicts(now)
    assert "tensorrt-rtx" not in {entry.backend for entry in stored_verdicts(now) if entry.status == "not judged"}
    require_passed(now, engine.artifact_sha256, "tensorrt-rtx", "GPU A")
    with pytest.raises(NotValidatedError, match=r"no verdict.*GPU B.*--hop engine"):
        require_passed(now, engine.artifact_sha256, "tensorrt-rtx", "GPU B")


def test_a_newer_verdict_replaces_the_older_of_the_same_device(trained_run: Path) -> None:
    run = RunDirectory(trained_run)
    old, new = verdict(run, "GPU A"), verdict(run, "GPU A", status="failed")

    assert merged([old], [new], new.basis_sha256, run.manifest) == [new]


@pytest.mark.parametrize("stale", [{"artifact_sha256": "0" * 64}, {"contract_sha256": "0"}, {"basis_sha256": "0"}])
def test_a_verdict_of_other_bytes_contract_or_images_is_dropped(trained_run: Path, stale: dict[str, str]) -> None:
    run = RunDirectory(trained_run)
    kept = verdict(run, "GPU A")

    assert merged([kept, verdict(run, "GPU B", **stale)], [], kept.basis_sha256, run.manifest) == [kept]


def test_changed_limits_end_verdicts_of_other_machines(trained_copy: Path) -> None:
    run = RunDirectory(trained_copy)
    store(run, verdict(run, "GPU A"))
    config = trained_config(trained_copy, "validate.limits.min_agreement=0.5")
    run_stages(trained_copy, config, trained_copy, GATE)

    devices = {entry.device for entry in stored_verdicts(RunDirectory(trained_copy))}
    assert {device for device in devices if not is_cpu(device)} == {"none"}


def test_an_edited_verdict_or_reference_is_refused(trained_copy: Path) -> None:
    for name in (FILE_NAME, INDEX):
        path = RunDirectory(trained_copy).artifact(STAGE, name)
        path.write_text(path.read_text() + " ")
        with pytest.raises(ArtifactDamagedError, match="was changed after it was made"):
            RunDirectory(trained_copy).artifact_bytes(STAGE, name)


def test_an_edited_verdict_is_judged_anew(trained_copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = RunDirectory(trained_copy).artifact(STAGE, FILE_NAME)
    path.write_text(path.read_text().replace("not judged", "passed"))
    run_stages(trained_copy, trained_config(trained_copy), trained_copy, GATE)

    statuses = {entry.backend: entry.status for entry in stored_verdicts(RunDirectory(trained_copy))}
    assert statuses["tensorrt-rtx"] == "not judged"
    assert "verdicts of other machines are dropped" in caplog.text


def test_limits_that_were_not_judged_are_printed_kept_and_shown(
    trained_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run_stages(trained_copy, trained_config(trained_copy, "validate.stress=false"), trained_copy, GATE)

    run = RunDirectory(trained_copy)
    said = "passed; not judged: stress_relative_l2, stress_large_margin_flips, stress_non_finite (no stress inputs)"
    assert f"hop 'onnx' on onnxruntime-cpu (cpu): {said}" in caplog.text
    assert run.record(STAGE).figures["unjudged"]["onnx"][0] == "stress_relative_l2"
    reasons = next(entry.reasons for entry in stored_verdicts(run) if entry.backend == "onnxruntime-cpu")
    assert reasons[0].startswith("stress_relative_l2 (limit 0.0001): not judged")
    assert "limits not judged" in call("show", trained_copy)[1]
    assert "no stress inputs" in run.artifact_bytes(STAGE, "gate.html").decode()


def test_what_cannot_run_here_is_told_in_one_line(trained_run: Path) -> None:
    report = GateReport.model_validate_json(RunDirectory(trained_run).artifact_bytes(STAGE, "report.json"))
    entry = NotJudged(
        artifact="export/model.onnx",
        artifact_sha256="0" * 64,
        backend="onnxruntime-cuda",
        reason="not run here: there is no NVIDIA driver. use backend onnxruntime-cpu",
    )
    both = (entry, entry.model_copy(update={"backend": "tensorrt-rtx"}))
    lines = report.model_copy(update={"not_judged": both}).summary()

    said = "validate: not judged here: onnxruntime-cuda, tensorrt-rtx (there is no NVIDIA driver)"
    assert [line for line in lines if "NVIDIA" in line] == [said]


@pytest.mark.parametrize("package", ["torch", "numpy", "opencv-python-headless"])
def test_another_version_of_what_judges_is_a_reason_to_judge_again(
    trained_copy: Path, caplog: pytest.LogCaptureFixture, package: str
) -> None:
    run = RunDirectory(trained_copy)
    record = run.record(STAGE)
    params = {**record.params, "machine": {**record.params["machine"], package: "0.1"}}
    older = record.model_copy(update={"params": params, "key": stage_key(record.inputs, params)})
    save(run.path, run.manifest.with_stage(STAGE, older, None))
    caplog.set_level(logging.INFO)
    run_stages(trained_copy, trained_config(trained_copy), trained_copy, GATE)

    assert caplog.messages[0] == f"validate: machine.{package} 0.1 -> {machine()[package]}"


def test_the_machine_is_part_of_the_key(trained_run: Path) -> None:
    assert RunDirectory(trained_run).record(STAGE).params["machine"] == machine()
    assert {"processor", "torch", "numpy"} <= set(machine())


def test_a_reference_stored_by_another_version_names_the_next_action(trained_copy: Path) -> None:
    run = RunDirectory(trained_copy)
    replace_output(run, STAGE, INDEX, run.artifact_bytes(STAGE, INDEX).replace(b'"batches"', b'"max_batch"'))

    with pytest.raises(InputError, match=r"was written by another version.*run `segpipe validate"):
        StoredReference(RunDirectory(trained_copy))
