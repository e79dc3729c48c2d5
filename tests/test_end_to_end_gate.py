"""The graph from frame to mask is an artifact: asked for, judged, carried, and refused when it is another network."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from segpipe import Segmenter
from segpipe.artifacts import END_TO_END, END_TO_END_GRAPH, EXPORT
from segpipe.contract.schema import Contract
from segpipe.errors import NotValidatedError
from segpipe.rundir.directory import RunDirectory
from segpipe.verdict import require_passed, stored_verdicts
from stages.config.file import load_config
from stages.config.root import Config, ExportConfig
from stages.export.files import _end_to_end
from stages.pipeline import Selection, run_stages
from stages.validate.judging.gate import judge_run
from tests.calling import call
from tests.test_end_to_end import network
from tests.trained import edit_graph, replace_output


@pytest.fixture(scope="module")
def whole_run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained run, exported once more with the graph, and validated. Shared: copy it before writing."""
    path = Path(shutil.copytree(trained_run, tmp_path_factory.mktemp("whole") / "run"))
    toml = path / "segpipe.toml"
    toml.write_text(toml.read_text().replace("[export]", '[export]\nend_to_end = "confidence"'))
    run_stages(path, load_config(path), path, Selection("export", "validate"))
    return path


def test_the_setting_at_its_default_is_no_parameter_and_writes_nothing(trained_run: Path) -> None:
    record = RunDirectory(trained_run).record(EXPORT)

    assert Config.model_fields["export"].default.end_to_end == "off"
    assert "end_to_end" not in record.params["export"]
    assert END_TO_END_GRAPH not in record.outputs


def test_the_other_graphs_stay_what_they_are(trained_run: Path, whole_run: Path) -> None:
    before, after = (RunDirectory(path).record(EXPORT).outputs for path in (trained_run, whole_run))

    assert {name: after[name].sha256 for name in before} == {name: file.sha256 for name, file in before.items()}


def test_it_gives_the_runtimes_masks(whole_run: Path) -> None:
    session = onnxruntime.InferenceSession(RunDirectory(whole_run).artifact(EXPORT, END_TO_END_GRAPH))
    frame = np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)

    with Segmenter.open(whole_run, "onnxruntime-cpu") as segmenter:
        expected = segmenter(frame)

    assert (session.run(["mask"], {"frame": frame[None]})[0][0] != expected).mean() <= 1e-3


def test_it_is_a_hop_that_passes_with_a_verdict_of_its_own(whole_run: Path) -> None:
    run = RunDirectory(whole_run)
    (verdict,) = (entry for entry in stored_verdicts(run) if entry.backend == END_TO_END)

    assert (verdict.artifact, verdict.status, verdict.device) == (f"{EXPORT}/{END_TO_END_GRAPH}", "passed", "cpu")
    require_passed(run, run.recorded(EXPORT, END_TO_END_GRAPH).sha256, END_TO_END)


def test_the_segmenter_never_takes_it(whole_run: Path) -> None:
    with Segmenter.open(whole_run) as segmenter:
        assert (
            segmenter.describe()["artifact_sha256"] != RunDirectory(whole_run).recorded(EXPORT, END_TO_END_GRAPH).sha256
        )


def test_a_bundle_carries_it_and_it_is_judged_there(whole_run: Path, tmp_path: Path) -> None:
    assert call("bundle", whole_run, "-o", tmp_path / "bundle", "--with-reference")[0] == 0

    code, out, _ = call("validate", tmp_path / "bundle", "--hop", END_TO_END)

    assert code == 0
    assert "onnxruntime-e2e (cpu): passed" in out


def test_a_run_without_it_says_so(trained_run: Path) -> None:
    code, _, said = call("validate", trained_run, "--hop", END_TO_END)

    assert code == 1
    assert f"does not hold {END_TO_END_GRAPH}" in said


def test_another_networks_graph_fails_the_gate_and_is_refused(whole_run: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(whole_run, tmp_path / "run"))
    run = RunDirectory(path)
    wrong = edit_graph(run.artifact_bytes(EXPORT, END_TO_END_GRAPH), lambda name, v: v[::-1] if v.shape == (3,) else v)
    replace_output(run, EXPORT, END_TO_END_GRAPH, wrong)

    judged = judge_run(RunDirectory(path), load_config(path), path)
    failed = judged.report.hops[END_TO_END]

    assert failed.status == "failed"
    assert [name for name, hop in judged.report.hops.items() if hop.status == "failed"] == [END_TO_END]
    assert not {"relative_l2", "non_finite"} & {check.name for check in failed.checks}
    with pytest.raises(NotValidatedError):
        require_passed(RunDirectory(path), run.recorded(EXPORT, END_TO_END_GRAPH).sha256, END_TO_END)


def test_a_large_frame_of_many_classes_gets_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    large = Contract(classes=tuple(map(str, range(19))), network_size=(1024, 2048), output_stride=4)
    graph = _end_to_end(network(large), large, ExportConfig(end_to_end="mask"), (1, 3, 1024, 2048))

    assert onnx.load_model_from_string(graph).graph.output[0].name == "mask"
    assert "blends 39 million scores for a frame of 1024x2048, 0.5 GB of memory" in caplog.text
