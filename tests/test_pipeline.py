"""Every stage on the tiny run: what comes out, and what reruns."""

import logging
import re
from pathlib import Path

import onnx
import pytest

from segpipe.contract.schema import Contract
from segpipe.errors import BuildError, ConfigError, GateFailedError, NotValidatedError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.segmenter import Segmenter
from segpipe.verdict import stored_verdicts
from stages.graphs.naming import NAME_SCOPES, SOURCE_LINE
from stages.pipeline import Selection, run_stages
from stages.report import write_report
from stages.table import NAMES
from tests.gpu_here import has_gpu
from tests.tiny import tiny_config

CHECKPOINT = "model.safetensors"
PICTURES = {"augmentation.png", "best.png", "confusion.png", "curves.png", "worst.png"}


def test_every_stage_leaves_its_files_and_figures(finished_run: Path) -> None:
    stages = RunDirectory(finished_run).manifest.stages

    assert tuple(sorted(stages, key=NAMES.index)) == NAMES
    assert set(stages["train"].outputs) == {CHECKPOINT, "history.csv", "confusion.json", *PICTURES}
    assert set(stages["export"].outputs) == {
        "model.onnx",
        "model.fp16.onnx",
        "contract.json",
        "palette.json",
        "precision.json",
    }
    assert {name for name in stages["build"].outputs if not name.startswith("kernels.")} == {"model.rtx.engine"}
    assert {"report.json", "verdicts.json", "gate.html", "worst.png"} <= set(stages["validate"].outputs)
    assert set(stages["benchmark"].outputs) == {"report.json", "samples.csv", "frames.png", "ranking.json"}
    assert all(record.environment["python"] for record in stages.values())


def test_a_second_run_does_nothing(run_copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = (run_copy / "manifest.json").read_bytes()
    caplog.set_level(logging.INFO)
    run_stages(run_copy, tiny_config(run_copy), run_copy, Selection())

    assert (run_copy / "manifest.json").read_bytes() == before
    assert [record.message for record in caplog.records] == [f"{name}: fresh, nothing to do" for name in NAMES]


def test_a_users_factory_is_an_input_of_every_stage_that_runs_its_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A change of what eval mode does may leave the weights as they are."""
    source, path = tmp_path / "their_eval.py", tmp_path / "run"
    source.write_text(
        "from torch.nn import Conv2d, Sequential\n"
        "def make(channels, classes):\n    return Sequential(Conv2d(channels, classes, 1))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tiny_config(
        path, "model.name=their_eval:make", "model.options={}", "train.epochs=1", "benchmark.seconds=1"
    )
    stages = run_stages(path, config, path, Selection()).manifest.stages
    source.write_text(source.read_text() + "# changed\n")
    caplog.set_level(logging.INFO)
    run_stages(path, config, path, Selection())

    hashes = {name: record.inputs.get("factory") for name, record in stages.items()}
    assert hashes.pop("build") is None
    assert len(set(hashes.values())) == 1
    assert None not in hashes.values()
    messages = [record.message for record in caplog.records]
    assert {f"{name}: factory changed" for name in hashes} <= set(messages)


def test_a_changed_setting_reruns_only_what_depends_on_it(run_copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run_stages(run_copy, tiny_config(run_copy, "validate.boundary_px=2"), run_copy, Selection(last="validate"))

    messages = [record.message for record in caplog.records]
    assert messages[:3] == [f"{name}: fresh, nothing to do" for name in ("train", "export", "build")]
    assert messages[3] == "validate: validate.boundary_px default -> 2"


def test_sizes_that_the_network_cannot_take_name_the_nearest(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "input.height=70")

    with pytest.raises(ConfigError, match=r"skipnet takes multiples of 32.*use 64 x 96"):
        run_stages(tmp_path, config, tmp_path, Selection(last="train"))


def test_exports_are_reproducible_self_describing_and_name_no_machine(run_copy: Path) -> None:
    run = RunDirectory(run_copy)
    before = {name: output.sha256 for name, output in run.record("export").outputs.items()}
    again = run_stages(run_copy, tiny_config(run_copy), run_copy, Selection("export", "export", force=True))
    model = onnx.load_from_string(again.artifact_bytes("export", "model.onnx"))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    keys = {entry.key for node in model.graph.node for entry in node.metadata_props}

    assert {name: output.sha256 for name, output in again.record("export").outputs.items()} == before
    assert Contract.from_metadata(metadata, "model.onnx").sha256 == again.manifest.contract_sha256
    assert keys == {NAME_SCOPES, SOURCE_LINE}
    for name in ("model.onnx", "model.fp16.onnx"):
        data = again.artifact_bytes("export", name)
        assert b"/home/" not in data
        assert b"site-packages" not in data
        assert str(Path(__file__).parents[1]).encode() not in data


def test_the_fp16_graph_is_half_the_size_and_keeps_its_types(finished_run: Path) -> None:
    run = RunDirectory(finished_run)
    model = onnx.load_from_string(run.artifact_bytes("export", "model.fp16.onnx"))
    weights = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4}

    assert weights == {onnx.TensorProto.FLOAT16}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert run.record("build").figures["tensorrt-rtx"]["fp16_share"] == 1.0


def test_an_unknown_compute_capability_names_the_known(run_copy: Path) -> None:
    config = tiny_config(run_copy, "build.compute_capabilities=['3.5']")

    with pytest.raises(BuildError, match=r"does not build for SM35.*may hold 7\.5, 8\.0"):
        run_stages(run_copy, config, run_copy, Selection("build", "build"))


def test_the_gate_fails_and_stays_failed(run_copy: Path) -> None:
    config = tiny_config(run_copy, "validate.limits.max_relative_l2_fp32=1e-12")

    for _ in range(2):
        with pytest.raises(GateFailedError, match="relative_l2") as caught:
            run_stages(run_copy, config, run_copy, Selection("validate", "validate"))
        assert caught.value.exit_code == 3
    with pytest.raises(NotValidatedError, match="was judged: failed"):
        Segmenter.open(run_copy)


def test_verdicts_say_what_was_not_judged(finished_run: Path) -> None:
    verdicts = {verdict.backend: verdict for verdict in stored_verdicts(RunDirectory(finished_run))}

    assert verdicts["onnxruntime-cpu"].status == verdicts["onnxruntime-rounded"].status == "passed"
    if not has_gpu():
        assert verdicts["tensorrt-rtx"].status == verdicts["onnxruntime-cuda"].status == "not judged"
        assert verdicts["onnxruntime-cuda-fp16"].artifact == "export/model.fp16.onnx"
        assert "not run here" in verdicts["tensorrt-rtx"].reasons[0]


def test_the_report_is_one_file_that_needs_nothing_else(run_copy: Path) -> None:
    page = write_report(RunDirectory(run_copy)).read_text()

    assert "Release gate" in page
    assert "data:image/" in page
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", page)  # where chance spells it
