"""The gate on whole runs: its files, its verdicts across machines, machines without PyTorch, and two runs compared."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from segpipe.cli import app
from segpipe.errors import (
    ArtifactDamagedError,
    ArtifactMissingError,
    BackendError,
    GateFailedError,
    InputError,
    NotValidatedError,
)
from segpipe.manifest import save, stage_key
from segpipe.rundir import RunDirectory
from segpipe.runtime.opening import run_contract
from segpipe.runtime.segmenter import Segmenter
from segpipe.verdict import (
    FILE_NAME,
    STAGE,
    VERDICTS,
    LocalVerdict,
    Verdict,
    local_files,
    merged,
    require_passed,
    stored_verdicts,
)
from stages.compare_tensors import FP16_MAX
from stages.pipeline import Selection, run_stages
from stages.validate import machine
from stages.validate.against import same_grid
from stages.validate.elsewhere import gate_peak, judge_stored, keep, validate_hop
from stages.validate.hops import stale_engine
from stages.validate.report import SCHEMA_FILE, GateReport, NotJudged, schema
from stages.validate.stored import FRAMES, INDEX, StoredReference, _packed
from tests.planted_table import break_graph
from tests.trained import edit_graph, replace_output, trained_config

GATE = Selection("validate", "validate")


def call(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_report_follows_its_published_schema(trained_run: Path) -> None:
    text = RunDirectory(trained_run).artifact_bytes(STAGE, "report.json")
    report = GateReport.model_validate_json(text)

    assert json.loads(SCHEMA_FILE.read_text()) == schema(), "run `python -m stages.validate.report`"
    assert set(report.hops) >= {"onnx", "fp16"}
    assert {hop.status for hop in report.hops.values()} == {"passed"}
    assert report.hops["fp16"].before.hop == "onnx"
    assert sum(bin_.flips for bin_ in report.hops["fp16"].flip_margins) == report.hops["fp16"].figures.flips
    assert b"NaN" not in text
    assert b"Infinity" not in text


def test_every_stress_input_went_through_every_hop(trained_run: Path) -> None:
    images = StoredReference(RunDirectory(trained_run)).images()
    names = {image.name for image in images if image.stress}
    report = GateReport.model_validate_json(RunDirectory(trained_run).artifact_bytes(STAGE, "report.json"))

    assert {"black", "grey", "white", "noise", "extreme contrast", "one pixel changed"} < names
    assert {"size 1x1", "size 96x160"} < names
    assert {hop.stress.inputs for hop in report.hops.values()} == {len(names)}


def test_the_page_is_one_file_with_its_pictures(trained_run: Path) -> None:
    run = RunDirectory(trained_run)
    page = run.artifact_bytes(STAGE, "gate.html").decode()

    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page
    assert "Release gate: passed" in run.artifact_bytes(STAGE, "gate.md").decode()


def test_a_broken_layer_fails_names_itself_and_stays_failed(
    trained_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    break_graph(trained_copy)
    caplog.set_level(logging.ERROR)

    for _ in range(2):
        with pytest.raises(GateFailedError, match="relative_l2") as caught:
            run_stages(trained_copy, trained_config(trained_copy), trained_copy, GATE)
        assert caught.value.exit_code == 3
    lines = [record.message for record in caplog.records]
    assert any(line.startswith("hop 'onnx': relative_l2") for line in lines)
    assert any("first diverging layer is module 'down2.4' (ONNX node" in line for line in lines)
    with pytest.raises(NotValidatedError, match="was judged: failed"):
        Segmenter.open(trained_copy)


def test_the_command_exits_3_with_a_line_for_each_failed_limit(trained_copy: Path) -> None:
    code, out, err = call("validate", trained_copy, "--set", "validate.limits.max_relative_l2=1e-12")

    assert code == 3
    assert out == ""
    assert [line for line in err.splitlines() if line.startswith("hop 'fp16': relative_l2")]
    assert err.splitlines()[-1].startswith("error: the release gate failed")


def test_explain_speaks_of_hops_that_pass(trained_run: Path) -> None:
    code, out, _ = call("validate", trained_run, "--explain")

    assert code == 0
    assert "hop 'fp16', shapes-val-" in out
    assert "stays within FP16's rounding" in out
    assert "pre- or post-processing" not in out


def test_options_that_exclude_each_other_are_refused(trained_run: Path) -> None:
    assert call("validate", trained_run, "--explain", "--hop", "engine")[0] == 2
    assert call("validate", trained_run, "--hop", "engine", "--set", "validate.images=1")[0] == 2


def test_a_machine_without_pytorch_judges_by_the_stored_reference(trained_copy: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from segpipe.rundir import RunDirectory
from stages.validate.elsewhere import validate_hop
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
        Segmenter.open(trained_copy)


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

    with pytest.raises(BackendError, match=r"no hop 'engine' could be judged here: build/model\.rtx\.engine"):
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


def test_a_run_against_itself_agrees_and_against_a_broken_one_does_not(trained_run: Path, trained_copy: Path) -> None:
    same = call("validate", trained_run, "--against", trained_copy)
    break_graph(trained_copy)
    code, out, err = call("validate", trained_copy, "--against", trained_run)

    assert same[0] == 0
    assert "100.0000%" in same[1]
    assert code == 3
    assert "onnxruntime-cpu" in out
    assert err.startswith("error: the two runs differ: 'onnxruntime-cpu': ")


@pytest.mark.parametrize(
    "change",
    [{"output_stride": 2}, {"output_kind": "probabilities"}, {"network_size": (96, 96)}, {"fit": "letterbox"}],
)
def test_networks_of_other_scores_are_compared_by_their_masks(trained_run: Path, change: dict[str, object]) -> None:
    contract = run_contract(RunDirectory(trained_run))

    assert same_grid(contract, contract)
    assert not same_grid(contract, contract.model_copy(update=change))


# --- verdicts --------------------------------------------------------------------------------------------------------


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

    assert {entry.device for entry in stored_verdicts(RunDirectory(trained_copy))} == {"cpu", "none"}


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
    said = "passed; not judged: stress_relative_l2 (no stress inputs), stress_large_margin_flips (no stress inputs)"
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
