"""Imported graphs: no PyTorch module, so ONNX Runtime in FP32 is the reference and ranges judge FP16."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from segpipe.errors import GateFailedError
from segpipe.processor import is_cpu
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.opening import run_contract
from segpipe.runtime.preprocess import preprocess
from segpipe.verdict import STAGE, stored_verdicts
from stages.config.root import Config
from stages.graphs.halving import to_half
from stages.graphs.islands import choose
from stages.graphs.reading import to_bytes
from stages.pipeline import Selection, run_stages
from stages.results.gate import GateReport
from stages.validate.hops.stored import StoredReference
from tests.trained import edit_graph, larger_inside, replace_output, trained_config

GATE = Selection("validate", "validate")
Change = Callable[[str, np.ndarray], np.ndarray]


def imported(trained_run: Path, path: Path, change: Change) -> tuple[RunDirectory, Config]:
    """A run that holds two graphs, with their weights changed, and nothing that made them."""
    source, run, config = RunDirectory(trained_run), RunDirectory.create(path), trained_config(path)
    with run.step("export", {"foreign.onnx": "0" * 64}, {}) as step:
        for name in source.record("export").outputs:
            data = source.artifact_bytes("export", name)
            step.path(name).write_bytes(edit_graph(data, change) if name.endswith(".onnx") else data)
        step.contract_sha256 = source.manifest.contract_sha256
    return run, config


def test_onnx_in_fp32_is_the_reference(trained_run: Path, tmp_path: Path) -> None:
    run, config = imported(trained_run, tmp_path / "imported", lambda _, values: values)
    run_stages(run.path, config, run.path, GATE)

    done = RunDirectory(run.path)
    report = GateReport.model_validate_json(done.artifact_bytes(STAGE, "report.json"))
    assert report.reference == "ONNX FP32"
    assert set(report.hops) >= {"onnx", "fp16"}
    assert {verdict.status for verdict in stored_verdicts(done) if is_cpu(verdict.device)} == {"passed"}


def test_activations_that_fp16_cannot_hold_fail_though_onnxruntime_hides_them(
    trained_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, config = imported(trained_run, tmp_path / "imported", larger_inside)

    with pytest.raises(GateFailedError, match=r"hop 'fp16': .*fp16_range"):
        run_stages(run.path, config, run.path, GATE)
    said = "\n".join(record.message for record in caplog.records)
    assert "its values overflow FP16: try export.fp32_islands = ['node_" in said


def test_what_stays_in_fp32_does_not_count_against_fp16s_range(trained_run: Path, tmp_path: Path) -> None:
    run, config = imported(trained_run, tmp_path / "imported", larger_inside)
    model = onnx.load_model_from_string(run.artifact_bytes("export", "model.onnx"))
    contract, frame = run_contract(run), StoredReference(RunDirectory(trained_run)).images()[0].frame
    tensor = preprocess(frame, contract, contract.place(*frame.shape[:2]))[None]
    islands = {island.node for island in choose(model, ("auto",), lambda: [tensor], contract.input_name)}
    replace_output(run, "export", "model.fp16.onnx", to_bytes(to_half(model, islands)))

    run_stages(run.path, config, run.path, GATE)
    found = GateReport.model_validate_json(RunDirectory(run.path).artifact_bytes(STAGE, "report.json"))

    assert islands
    assert {check.name: check.status for check in found.hops["fp16"].checks}["fp16_range"] == "passed"


def test_an_fp32_hop_is_held_to_no_fp16_range(trained_run: Path, tmp_path: Path) -> None:
    run, config = imported(trained_run, tmp_path / "imported", larger_inside)

    with pytest.raises(GateFailedError, match="the release gate failed: hop 'fp16'"):
        run_stages(run.path, config, run.path, GATE)


def test_a_weight_that_only_fp16_has_wrong_is_named(
    trained_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Layers that have no FP32 form in the FP16 graph are looked at all the same."""
    run, config = imported(
        trained_run,
        tmp_path / "imported",
        lambda name, values: values * 1.2 if name == "down2.3.weight.fp16" else values,
    )

    with pytest.raises(GateFailedError, match=r"hop 'fp16': .*relative_l2"):
        run_stages(run.path, config, run.path, GATE)
    graph = onnx.load_model_from_string(run.artifact_bytes("export", "model.onnx")).graph
    broken = next(node.name for node in graph.node if "down2.3.weight" in node.input)
    assert f"(ONNX node {broken})" in "\n".join(record.message for record in caplog.records)
