"""Every stage on the tiny run: what comes out, what reruns, and that training resumes bit for bit."""

import logging
from pathlib import Path

import onnx
import pytest

from segpipe.contract import Contract
from segpipe.errors import BuildError, ConfigError, GateFailedError, NotValidatedError, TrainingError
from segpipe.rundir import RunDirectory
from segpipe.runtime.segmenter import Segmenter
from segpipe.storage import sha256_of
from segpipe.verdict import stored_verdicts
from stages import build
from stages.export.clean import NAME_SCOPES, SOURCE_LINE
from stages.pipeline import NAMES, Selection, run_stages
from stages.report import write_report
from tests.tiny import tiny_config

CHECKPOINT = "model.safetensors"


def test_every_stage_leaves_its_files_and_figures(finished_run: Path) -> None:
    stages = RunDirectory(finished_run).manifest.stages

    assert tuple(sorted(stages, key=NAMES.index)) == NAMES
    assert set(stages["train"].outputs) == {CHECKPOINT, "history.csv"}
    assert set(stages["export"].outputs) == {"model.onnx", "model.fp16.onnx", "contract.json", "palette.json"}
    assert set(stages["build"].outputs) == {"model.rtx.engine"}
    assert set(stages["validate"].outputs) == {"report.json", "verdicts.json", "worst.png"}
    assert set(stages["benchmark"].outputs) == {"report.json", "samples.csv", "frames.png"}
    assert all(record.environment["python"] for record in stages.values())


def test_a_second_run_does_nothing(run_copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = (run_copy / "manifest.json").read_bytes()
    caplog.set_level(logging.INFO)
    run_stages(run_copy, tiny_config(run_copy), run_copy, Selection())

    assert (run_copy / "manifest.json").read_bytes() == before
    assert [record.message for record in caplog.records] == [f"{name}: fresh, nothing to do" for name in NAMES]


def test_a_changed_setting_reruns_only_what_depends_on_it(run_copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run_stages(run_copy, tiny_config(run_copy, "validate.boundary_px=2"), run_copy, Selection(last="validate"))

    messages = [record.message for record in caplog.records]
    assert messages[:3] == [f"{name}: fresh, nothing to do" for name in ("train", "export", "build")]
    assert messages[3] == "validate: validate.boundary_px default -> 2"


def test_training_resumes_to_the_same_bytes(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by an error after the second epoch was kept, then continued in place."""
    from stages.train.resume import ResumePoints

    wanted = RunDirectory(finished_run).record("train").outputs[CHECKPOINT].sha256
    config = tiny_config(tmp_path / "run")
    real = ResumePoints._keep

    def keep_then_stop(self: ResumePoints, trainer: object) -> None:
        real(self, trainer)  # type: ignore[arg-type]
        if len(self.history) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ResumePoints, "_keep", keep_then_stop)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run_stages(tmp_path / "run", config, tmp_path / "run", Selection(last="train"))
    monkeypatch.undo()
    assert list((tmp_path / "run/train").glob("*.partial/resume/epoch-00002.*.ckpt"))
    run_stages(tmp_path / "run", config, tmp_path / "run", Selection(last="train"))

    assert RunDirectory(tmp_path / "run").record("train").outputs[CHECKPOINT].sha256 == wanted


def test_a_torn_resume_point_is_passed_over(tmp_path: Path) -> None:
    from stages.train.resume import newest_resume_point

    (tmp_path / "old").write_bytes(b"good")
    good = tmp_path / f"epoch-00001.{sha256_of(tmp_path / 'old')[:16]}.ckpt"
    (tmp_path / "old").rename(good)
    (tmp_path / f"epoch-00002.{'0' * 16}.ckpt").write_bytes(b"torn")

    assert newest_resume_point(tmp_path) == good


def test_a_loss_that_is_no_number_stops_training(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "train.learning_rate=1e30", "train.epochs=4")

    with pytest.raises(TrainingError, match=r"the loss became nan.*lower train\.learning_rate"):
        run_stages(tmp_path, config, tmp_path, Selection(last="train"))


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


def test_a_build_that_is_not_fp16_enough_fails_and_names_the_layers(run_copy: Path) -> None:
    run = RunDirectory(run_copy)
    config = tiny_config(run_copy)
    contract = Contract.from_json(run.artifact_bytes("export", "contract.json"), "export")
    engine = build.build("tensorrt-rtx", run.artifact_bytes("export", "model.onnx"), contract, config.build)

    with pytest.raises(BuildError, match=r"0% of \d+ compute layers are FP16.*not in FP16: .*FLOAT"):
        build.judge_precision(engine, config.build, islands=0)


def test_an_unknown_compute_capability_names_the_known(run_copy: Path) -> None:
    config = tiny_config(run_copy, "build.compute_capabilities=['3.5']")

    with pytest.raises(BuildError, match=r"does not build for SM35.*may hold 7\.5, 8\.0"):
        run_stages(run_copy, config, run_copy, Selection("build", "build"))


def test_the_gate_fails_and_stays_failed(run_copy: Path) -> None:
    config = tiny_config(run_copy, "validate.limits.max_relative_l2=1e-12")

    for _ in range(2):
        with pytest.raises(GateFailedError, match="relative_l2") as caught:
            run_stages(run_copy, config, run_copy, Selection("validate", "validate"))
        assert caught.value.exit_code == 3
    with pytest.raises(NotValidatedError, match="was judged: failed"):
        Segmenter.open(run_copy)


def test_verdicts_say_what_was_not_judged(finished_run: Path) -> None:
    verdicts = {verdict.artifact: verdict for verdict in stored_verdicts(RunDirectory(finished_run))}

    assert verdicts["export/model.onnx"].status == "passed"
    assert verdicts["build/model.rtx.engine"].status == "not judged"
    assert "not run" in verdicts["build/model.rtx.engine"].reasons[0]


def test_the_report_is_one_file_that_needs_nothing_else(run_copy: Path) -> None:
    page = write_report(RunDirectory(run_copy)).read_text()

    assert "Release gate" in page
    assert "data:image/png;base64," in page
    assert "http" not in page
