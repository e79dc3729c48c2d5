"""What `auto` takes: the fastest that was measured here and passed the gate, never less fine than [deploy] says."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from segpipe import processor, ranking, testing
from segpipe.artifacts import ARTIFACTS, ON_CPU, Precision, chosen, held_by, is_finer
from segpipe.bundle import write_bundle
from segpipe.errors import GateFailedError, InputError, NotValidatedError, SegpipeError
from segpipe.processor import computes, device_name
from segpipe.ranking import Floor, MeasuredSpeed, Ranking, floor_of, machine, speeds_here
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime import opening
from segpipe.runtime.cuda import driver_library
from segpipe.runtime.opening import Wanted, open_run
from segpipe.runtime.request import OpenOptions
from segpipe.runtime.segmenter import Segmenter
from segpipe.verdict import FILE_NAME, STAGE, VERDICTS, Verdict, require_passed, stored_verdicts
from stages.benchmark.ranked import ranking_of
from stages.build import run as build
from stages.build.target import wanted_engines
from stages.config.root import BuildConfig
from stages.measuring.rounds import ENOUGH
from stages.pipeline import Selection, run_stages
from stages.report.reading import read_facts
from stages.results.benchmark import read_report
from tests.calling import call
from tests.tiny import tiny_config
from tests.trained import replace_output, trained_config

FASTEST = "onnxruntime-cpu on cpu runs export/model.onnx (auto: measured fastest here, 5 ms)"
USABLE = "onnxruntime-cpu on cpu runs export/model.onnx (auto: the first that is usable)"


def rank(path: Path, where: dict[str, str] | None = None, **milliseconds: float) -> Path:
    """Commit a ranking, as the benchmark does; of this machine unless another is given."""
    run = RunDirectory(path)
    held = {row.name: run.recorded(row.stage, row.file).sha256 for row in held_by(run.manifest)}
    names = {name.replace("_", "-"): value for name, value in milliseconds.items()}
    measured = {name: MeasuredSpeed(artifact_sha256=held[name], p50_ms=value) for name, value in names.items()}
    with run.step(ranking.STAGE, [run.artifact(ON_CPU.stage, ON_CPU.file)], {}) as step:
        text = Ranking(machine=where or machine(), measured=measured).model_dump_json()
        step.path(ranking.FILE_NAME).write_text(text)
    return path


def told(path: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What opening with `auto` says."""
    caplog.clear()
    with caplog.at_level(logging.DEBUG, logger="segpipe"):
        Segmenter.open(path).close()
    return [record.getMessage() for record in caplog.records]


def test_of_what_was_measured_here_auto_tries_the_fastest_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = testing.make_run(tmp_path)
    before = told(run, caplog)

    after = told(rank(run, onnxruntime_cpu=5, onnxruntime_cuda=9), caplog)

    assert any(line.startswith("not onnxruntime-cuda: ") for line in before)
    assert before[-1].endswith(USABLE)
    assert not any(line.startswith("not onnxruntime-cuda: ") for line in after), "the faster one was opened before"
    assert after[-1].endswith(FASTEST)


def test_what_nobody_measured_keeps_its_place_before_a_slower_kind_and_its_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run measured on a CPU alone, whose GPU artifacts are judged later."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(opening, "load_driver", lambda: None)
    monkeypatch.setattr(opening, "has_driver", lambda: True)

    lines = told(rank(testing.make_run(tmp_path), onnxruntime_cpu=5), caplog)

    tried = [line.split(":")[0].removeprefix("not ") for line in lines if line.startswith("not ")]
    assert tried == [row.name for row in ARTIFACTS.values() if row.needs_gpu]
    assert lines[-2].endswith(FASTEST)
    assert "the GPU is not used, onnxruntime-cpu runs: no verdict" in lines[-1]


class Driver:
    """A driver that notes what it is asked, and does not start."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        self.calls.append(name)
        return lambda *_: 1


@pytest.mark.parametrize(
    ("measured", "hidden", "calls"),
    [
        ({"onnxruntime_cpu": 5}, None, []),
        ({"onnxruntime_cpu": 5, "onnxruntime_cuda": 2}, "-1", []),
        ({"onnxruntime_cpu": 5, "onnxruntime_cuda": 2}, None, ["cuInit"]),
    ],
)
def test_a_ranking_starts_the_driver_only_where_a_gpu_that_is_shown_was_measured(
    measured: dict[str, float], hidden: str | None, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that started it could not fork and use a GPU in the child."""
    run = RunDirectory(rank(testing.make_run(tmp_path), machine(), **measured))
    driver = Driver()
    monkeypatch.setattr(driver_library, "load_driver", lambda: driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)

    speeds_here(run)

    assert driver.calls == calls
    speeds_here(run, [ON_CPU.name])
    assert driver.calls == calls, "of the family cpu none needs a GPU"


def test_a_namesake_with_other_cores_or_instructions_is_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(rank(testing.make_run(tmp_path), onnxruntime_cpu=5))
    assert speeds_here(run) == {ON_CPU.name: 5}

    monkeypatch.setattr(ranking, "usable_cores", lambda: 64_000)
    assert speeds_here(run) == {}
    monkeypatch.undo()
    monkeypatch.setattr(processor, "features", lambda: frozenset({"avx1024", "lm"}))
    assert machine()["instructions"] == "avx1024"
    assert speeds_here(run) == {}


@pytest.mark.parametrize("key", ["processor", "gpus", "onnxruntime"])
def test_a_ranking_of_another_machine_or_version_is_left_alone_and_said_so(
    key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = machine() | {key: "Z80"}
    lines = told(rank(testing.make_run(tmp_path), elsewhere, onnxruntime_cpu=5, onnxruntime_cuda=9), caplog)

    assert any(f"speeds were measured elsewhere ({key} Z80)" in line for line in lines)
    assert lines[-1].endswith(USABLE)


def test_a_ranking_of_another_artifact_says_nothing(tmp_path: Path) -> None:
    run = testing.make_run(tmp_path)
    other = {ON_CPU.name: MeasuredSpeed(artifact_sha256="0" * 64, p50_ms=5)}
    replace_output(
        RunDirectory(rank(run, onnxruntime_cpu=5)),
        ranking.STAGE,
        ranking.FILE_NAME,
        Ranking(machine=machine(), measured=other).model_dump_json().encode(),
    )

    assert speeds_here(RunDirectory(run)) == {}


@pytest.mark.parametrize("content", [b"{}", b"not json"])
def test_a_ranking_that_cannot_be_read_keeps_nothing_from_opening(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = rank(testing.make_run(tmp_path), onnxruntime_cpu=5)
    replace_output(RunDirectory(run), ranking.STAGE, ranking.FILE_NAME, content)

    lines = told(run, caplog)

    assert any("the ranking is left out" in line for line in lines)
    assert lines[-1].endswith(USABLE)


def test_the_fastest_is_refused_where_the_gate_did_not_pass_it(tmp_path: Path) -> None:
    run = rank(testing.make_run(tmp_path, status="failed"), onnxruntime_cpu=5)

    with pytest.raises(NotValidatedError, match="onnxruntime-cpu"):
        Segmenter.open(run)


def judged(path: Path, name: str, device: str, status: Literal["passed", "failed"] = "passed") -> None:
    """A verdict for what else runs the FP32 graph."""
    run = RunDirectory(path)
    (first, *more) = stored_verdicts(run)
    new = first.model_copy(update={"backend": name, "device": device, "status": status})
    replace_output(run, STAGE, FILE_NAME, VERDICTS.dump_json((first, *more, new)))


def test_a_family_takes_the_best_of_its_own_and_says_why_there_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = rank(testing.make_run(tmp_path), onnxruntime_cpu=5)

    with caplog.at_level(logging.INFO, logger="segpipe"), Segmenter.open(run, "cpu") as opened:
        assert opened.describe()["backend"] == ON_CPU.name
    assert caplog.messages[-1].endswith(FASTEST.replace("(auto", "(cpu"))
    with pytest.raises(SegpipeError) as caught:
        Segmenter.open(run, "gpu")
    assert "onnxruntime-cpu" not in caught.value.message
    with pytest.raises(InputError, match="nothing computes in fp32"):
        Segmenter.open(run, "gpu", precision="fp32")


def test_a_backend_that_failed_names_those_that_passed(tmp_path: Path) -> None:
    run = testing.make_run(tmp_path)
    judged(run, "openvino", "cpu", "failed")

    with pytest.raises(NotValidatedError) as caught:
        Segmenter.open(run, "openvino")

    assert caught.value.hint.startswith(f"use {ON_CPU.name}, which passed; after a change run `segpipe validate")


def test_of_two_backends_auto_takes_the_faster_one_as_soon_as_the_gate_passed_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openvino")
    run = rank(testing.make_run(tmp_path), openvino=2, onnxruntime_cpu=5)

    before = told(run, caplog)
    judged(run, "openvino", "cpu")
    after = told(run, caplog)

    assert any(line.startswith("not openvino: no verdict") for line in before)
    assert after[-1].endswith("openvino on cpu runs export/model.onnx (auto: measured fastest here, 2 ms)")


def test_auto_leaves_bf16_alone_on_a_cpu_however_fast_until_it_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openvino")
    if not computes("bf16"):
        pytest.skip("this processor has no instructions for bf16")
    run = rank(testing.make_run(tmp_path), openvino_bf16=1, onnxruntime_cpu=5)
    judged(run, "openvino-bf16", device_name("bf16"))

    assert told(run, caplog)[-1].endswith(FASTEST)
    with Segmenter.open(run, precision="bf16") as segmenter:
        assert (segmenter.describe()["backend"], segmenter.describe()["device"]) == (
            "openvino-bf16",
            device_name("bf16"),
        )


def test_the_ranking_travels_in_a_bundle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = rank(testing.make_run(tmp_path / "run"), onnxruntime_cpu=5)

    bundle = write_bundle(RunDirectory(run), tmp_path / "bundle")

    assert [*RunDirectory(bundle).record(ranking.STAGE).outputs] == [ranking.FILE_NAME]
    assert told(bundle, caplog)[-1].endswith(FASTEST)
    assert call("verify", bundle)[0] == call("show", bundle)[0] == 0


@pytest.mark.parametrize("content", [None, b"{}"])
def test_a_ranking_that_is_gone_or_damaged_keeps_nothing_from_being_bundled(
    content: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDirectory(rank(testing.make_run(tmp_path / "run"), onnxruntime_cpu=5))
    file = run.artifact(ranking.STAGE, ranking.FILE_NAME)
    file.unlink() if content is None else file.write_bytes(content)

    bundle = write_bundle(run, tmp_path / "bundle")

    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line[:33] for line in warnings] == ["bundle: the ranking is left out: "]
    assert ranking.STAGE not in RunDirectory(bundle).manifest.stages
    assert told(bundle, caplog)[-1].endswith(USABLE)


@pytest.mark.parametrize("name", ["", "fp31", ["fp32"], {}, 32, "x\n" * 1000])
def test_a_precision_or_backend_that_is_none_is_one_short_line(name: Any, tmp_path: Path) -> None:
    run = testing.make_run(tmp_path)

    for wanted in ({"precision": name}, {"backend": name}):
        with pytest.raises(InputError, match=r"there is no (precision|backend) ") as caught:
            Segmenter.open(run, **wanted)
        assert caught.value.message.isprintable()
        assert len(caught.value.message) < 80


def test_the_benchmark_ranks_what_it_measured_often_enough_and_nothing_of_a_cut_run(finished_run: Path) -> None:
    run = RunDirectory(finished_run)
    report = read_report(run.artifact_bytes("benchmark", "report.json"), "report")
    ours = next(entry for entry in report.contestants if entry.name == f"segpipe {ON_CPU.name}")
    assert ours.latency is not None
    often, seldom = (
        ours.model_copy(update={"latency": replace(ours.latency, samples=samples)}) for samples in (ENOUGH, ENOUGH - 1)
    )

    found = ranking_of(report.model_copy(update={"contestants": (often,)}), run)

    assert found.measured[ON_CPU.name].p50_ms == ours.latency.p50_ms
    assert found.machine == machine()
    for useless in ({"contestants": (seldom,)}, {"contestants": (often,), "partial": True}):
        assert ranking_of(report.model_copy(update=useless), run).measured == {}
    assert ranking.FILE_NAME in run.record(ranking.STAGE).outputs


def test_without_being_told_auto_runs_nothing_coarser_than_fp16_on_a_gpu_and_fp32_on_a_cpu() -> None:
    able = {(row.needs_gpu, row.precision) for row in ARTIFACTS.values() if is_finer(row.precision, Floor().least(row))}

    assert able == {(True, "fp16"), (True, "tf32"), (False, "fp32")}
    assert [one for one in get_args(Precision) if is_finer(one, "fp16")] == ["fp32", "tf32", "fp16"]


def test_auto_goes_no_lower_than_the_gate_was_told(trained_copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert "deploy" not in RunDirectory(trained_copy).record(STAGE).params, "at its defaults nothing becomes stale"
    basis = {entry.basis_sha256 for entry in stored_verdicts(RunDirectory(trained_copy))}
    config = trained_config(trained_copy, "deploy.gpu=fp32")

    run_stages(trained_copy, config, trained_copy, Selection(STAGE, STAGE))

    now = RunDirectory(trained_copy)
    assert floor_of(now.manifest) == Floor(gpu="fp32")
    assert {entry.basis_sha256 for entry in stored_verdicts(now)} == basis, "verdicts of other machines hold"
    bundle = write_bundle(now, trained_copy.parent / "bundle")
    assert floor_of(RunDirectory(bundle).manifest) == Floor(gpu="fp32")
    assert any("tensorrt-rtx computes in fp16, and deploy.gpu is fp32" in line for line in told(bundle, caplog))


def test_what_nobody_runs_by_accident_fails_alone(trained_copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    out_of_reach = "validate.limits.max_relative_l2=1e-12"  # of FP16
    with pytest.raises(GateFailedError, match="'fp16': relative_l2"):
        run_stages(trained_copy, trained_config(trained_copy, out_of_reach), trained_copy, Selection(STAGE, STAGE))

    with caplog.at_level(logging.INFO, logger="stages"):
        config = trained_config(trained_copy, out_of_reach, "deploy.gpu=fp32")
        run = run_stages(trained_copy, config, trained_copy, Selection(STAGE, STAGE))

    assert "validate: warning: hop 'fp16' failed (relative_l2): it stays closed, also to who asks for it" in caplog.text
    assert {entry.backend for entry in stored_verdicts(run) if entry.status == "failed"} == {"onnxruntime-rounded"}
    assert read_facts(run).gate == "passed"


@pytest.mark.parametrize("value", [3, [], {"gpu": "fp31"}])
def test_a_floor_that_cannot_be_read_is_the_default(value: object, tmp_path: Path) -> None:
    manifest = RunDirectory(testing.make_run(tmp_path)).manifest
    record = manifest.stages[STAGE].model_copy(update={"params": {"deploy": value}})

    assert floor_of(manifest.with_stage(STAGE, record, None)) == Floor()


@pytest.mark.parametrize(
    ("backend", "precision", "names"),
    [
        ("onnxruntime-cuda", None, ["onnxruntime-cuda"]),
        ("onnxruntime-cuda", "fp16", ["onnxruntime-cuda-fp16"]),
        ("onnxruntime-cuda", "tf32", ["onnxruntime-cuda"]),
        ("onnxruntime-cuda-fp16", "fp16", ["onnxruntime-cuda-fp16"]),
        ("tensorrt-rtx", None, ["tensorrt-rtx"]),
        ("tensorrt-rtx", "tf32", ["tensorrt-rtx-tf32"]),
    ],
)
def test_a_precision_chooses_among_what_a_backend_runs(
    backend: str, precision: Precision | None, names: list[str], tmp_path: Path
) -> None:
    manifest = RunDirectory(testing.make_run(tmp_path)).manifest

    assert [row.name for row in chosen(manifest, backend, precision)] == names


def test_a_precision_that_a_backend_does_not_compute_in_is_refused_with_those_there_are(tmp_path: Path) -> None:
    run = testing.make_run(tmp_path)

    with pytest.raises(InputError, match=r"backend 'onnxruntime-cpu' does not compute in fp16.*fp32"):
        Segmenter.open(run, "onnxruntime-cpu", precision="fp16")
    with Segmenter.open(run, precision="fp32") as segmenter:
        assert segmenter.describe()["backend"] == ON_CPU.name


def test_the_command_takes_a_precision_beside_the_backend(tmp_path: Path) -> None:
    run = testing.make_run(tmp_path)

    code, _, error = call("predict", run, tmp_path / "x.png", "-o", tmp_path / "out", "--precision", "fp31")

    assert code == 2
    assert "fp31" in error


@pytest.mark.parametrize(
    ("written", "kept"),
    [("fp16", "fp16"), (["fp16"], "fp16"), (["fp32"], "fp32"), (["fp32", "fp16", "fp32"], ("fp16", "fp32"))],
)
def test_one_precision_of_the_build_is_kept_as_before_and_several_in_one_order(written: object, kept: object) -> None:
    assert BuildConfig.model_validate({"precision": written}).precision == kept


@pytest.mark.parametrize("written", ["fp31", [], ["fp16", "bf16"], 16, [["fp16"]]])
def test_other_precisions_of_the_build_are_refused(written: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision"):
        BuildConfig.model_validate({"precision": written})


def test_the_only_precision_has_the_plain_name_and_of_several_fp16_keeps_it() -> None:
    def files(*precisions: str) -> list[str]:
        config = BuildConfig.model_validate({"precision": precisions, "targets": ["tensorrt-rtx", "tensorrt"]})
        return [wanted.row.file for wanted in wanted_engines(config)]

    assert files("fp16") == files("fp32") == ["model.rtx.engine", "model.tensorrt.engine"]
    assert files("fp16", "fp32") == [
        "model.rtx.engine", "model.rtx.tf32.engine", "model.tensorrt.engine", "model.tensorrt.tf32.engine",
    ]  # fmt: skip


def test_engines_of_two_precisions_live_side_by_side(run_copy: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    config = tiny_config(tmp_path, 'build.precision=["fp16", "fp32"]', 'build.compute_capabilities=["8.9"]')

    made = build(RunDirectory(run_copy), config, run_copy)

    now = RunDirectory(run_copy)
    held = {row.name: row.precision for row in held_by(now.manifest) if row.is_engine}
    assert held == {"tensorrt-rtx": "fp16", "tensorrt-rtx-tf32": "tf32"}
    assert len({path.read_bytes() for path in made}) == len(held)
    figures = now.record("build").figures
    assert (figures["tensorrt-rtx"]["fp16_share"], figures["tensorrt-rtx-tf32"]["fp16_share"]) == (1.0, 0.0)
    assert {"built_for", "profiles"} <= figures["tensorrt-rtx-tf32"].keys()


def test_narrow_numbers_judged_with_other_instructions_are_judged_again(tmp_path: Path) -> None:
    """As the gate keeps it: of two processors, each instruction set has a verdict of its own."""
    run = RunDirectory(testing.make_run(tmp_path))
    (first,) = stored_verdicts(run)
    elsewhere: Verdict = first.model_copy(update={"backend": "openvino-bf16", "device": "cpu amx-bf16"})
    replace_output(run, STAGE, FILE_NAME, VERDICTS.dump_json((first, elsewhere)))

    require_passed(run, elsewhere.artifact_sha256, "openvino-bf16", "cpu amx-bf16")
    with pytest.raises(NotValidatedError, match=r"openvino-bf16 \(cpu avx512-bf16\).*--hop openvino-bf16"):
        require_passed(run, elsewhere.artifact_sha256, "openvino-bf16", "cpu avx512-bf16")
    backend, _ = open_run(run, Wanted(), OpenOptions())
    backend.close()
    assert backend.device == "cpu"
