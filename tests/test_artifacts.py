"""The table of what can be deployed agrees with the code that makes, opens and judges it."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from segpipe import processor
from segpipe.artifacts import ARTIFACTS, BACKENDS, BUILD, ON_CPU, PACKAGES, Artifact, artifact_named, held_by
from segpipe.errors import BackendError, BackendMissingError, InputError
from segpipe.installed import versions
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.manifest import StageRecord
from segpipe.runtime.backends import load_opener
from segpipe.runtime.request import OpenOptions
from segpipe.testing import CONTRACT
from stages.benchmark import _PACKAGES as MEASURED_WITH
from stages.config.root import Limits, Target
from stages.environment import COMPUTING
from stages.validate.judging.rules import ALLOWED
from tests.calling import call

ROWS = list(ARTIFACTS.values())
FOLDER = Path(__file__).parents[1] / "segpipe" / "runtime" / "backends"


@pytest.mark.parametrize("row", ROWS, ids=list(ARTIFACTS))
def test_every_row_has_a_module_that_opens_it_or_says_which_extra_brings_it(row: Artifact) -> None:
    assert (FOLDER / f"{row.spec.module}.py").is_file()
    if versions(*row.spec.packages):
        assert callable(load_opener(row.name))
    else:
        with pytest.raises(BackendMissingError, match=rf"segpipe\[{row.spec.extra}\]"):
            load_opener(row.name)(b"", CONTRACT, OpenOptions())


def test_every_extra_and_every_package_of_the_table_is_in_pyproject() -> None:
    extras = tomllib.loads((FOLDER.parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    for spec in BACKENDS.values():
        named = " ".join(extras[spec.extra]).replace("-", "_")
        assert any(package.replace("-", "_") in named for package in spec.packages), spec


def test_a_backend_asked_for_by_its_own_name_is_a_row_and_no_two_rows_are_the_same_thing() -> None:
    assert {row.backend for row in ROWS} == set(BACKENDS) <= set(ARTIFACTS)
    assert len({(row.backend, row.precision) for row in ROWS}) == len(ROWS)


def test_the_first_row_without_a_gpu_is_what_runs_everywhere() -> None:
    assert next(row for row in ROWS if not row.needs_gpu) is ON_CPU


def test_every_package_of_a_backend_is_in_the_keys_of_what_is_judged_and_measured() -> None:
    judged = {
        "torch", "numpy", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt",
        "tensorrt_rtx",
    }  # fmt: skip

    assert {package for home in BACKENDS.values() for package in home.packages} == {*PACKAGES} <= {*COMPUTING}
    assert {*COMPUTING} >= judged, "a name less makes every verdict stale"
    assert {*MEASURED_WITH} == {*COMPUTING, "cuda-bindings", "pycuda"}


def test_every_precision_on_a_cpu_is_plain_or_names_its_instructions() -> None:
    assert [row.name for row in ROWS if not row.needs_gpu and row.precision not in {"fp32", *processor._SETS}] == []


def test_every_instruction_set_of_intels_can_be_kept_from_onednn() -> None:
    sets = {flag for flags in processor._SETS.values() for flag in flags if flag.startswith(("avx", "amx"))}

    assert sets == {*processor._ALLOWING}


def test_every_precision_of_openvinos_rows_has_a_type_and_any_other_is_refused() -> None:
    openvino = pytest.importorskip("segpipe.runtime.backends.openvino", exc_type=ImportError)

    assert [row.name for row in ROWS if row.backend == "openvino" and row.precision not in openvino._TYPES] == []
    with pytest.raises(BackendError, match=rf"does not compute in fp8, it knows {', '.join(openvino._TYPES)}"):
        openvino.open(b"", CONTRACT, OpenOptions(precision="fp8"))


def test_every_limit_of_the_settings_is_read_by_the_gate() -> None:
    judging = "".join(path.read_text() for path in (FOLDER.parents[2] / "stages/validate/judging").rglob("*.py"))

    assert [name for name in Limits.model_fields if not re.search(rf"\b{name}\b", judging)] == []


def test_every_target_of_the_build_is_a_backend_with_an_engine() -> None:
    assert {row.backend for row in ROWS if row.is_engine} == set(get_args(Target))


def test_every_precision_of_the_table_has_limits() -> None:
    for row in ROWS:
        allowed = ALLOWED[row.precision]
        assert {allowed.relative_l2, allowed.stress_relative_l2} <= set(Limits.model_fields)


def test_every_network_that_export_and_build_write_is_in_the_table(finished_run: Path) -> None:
    stages = RunDirectory(finished_run).manifest.stages
    files = {(stage, name) for stage in ("export", "build") for name in stages[stage].outputs}
    networks = {(stage, name) for stage, name in files if name.endswith((".onnx", ".engine"))}

    held = held_by(RunDirectory(finished_run).manifest)

    assert {(row.stage, row.file) for row in held} == networks
    assert [row.name for row in held] == [name for name in ARTIFACTS if name in {row.name for row in held}]


@pytest.mark.parametrize(("built", "precision"), [({}, "fp16"), ({"precision": "fp32"}, "tf32")])
def test_an_engine_has_the_precision_that_its_build_recorded(
    finished_run: Path, built: dict[str, str], precision: str
) -> None:
    manifest = RunDirectory(finished_run).manifest
    record: StageRecord = manifest.stages[BUILD].model_copy(update={"params": {BUILD: built}})

    held = held_by(manifest.with_stage(BUILD, record, None))

    assert {row.precision for row in held if row.is_engine} == {precision}


def test_a_name_that_no_row_has_is_refused_with_the_names(finished_run: Path) -> None:
    with pytest.raises(InputError, match=r"no backend 'tensorflow'.*tensorrt-rtx.*onnxruntime-cpu"):
        artifact_named("tensorflow")


def test_doctor_tells_of_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call("doctor")

    assert code == 0
    assert [name for name in BACKENDS if name not in out] == []
    assert [name for name in ARTIFACTS if f"backend {name} " not in out] == []


@pytest.mark.parametrize(
    ("limit", "device"),
    [("AVX2", "cpu"), ("avx512_core_bf16", "cpu avx512-bf16"), ("ALL", "cpu amx-bf16"), ("", "cpu amx-bf16")],
)
def test_instructions_that_onednn_may_not_use_are_not_there(
    limit: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "features", lambda: frozenset({"avx512_bf16", "amx_bf16"}))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", limit)

    assert processor.device_name("bf16") == device


@pytest.mark.parametrize(
    ("flags", "device"),
    [("avx2", "cpu"), ("avx2 avx512_bf16", "cpu avx512-bf16"), ("avx512_bf16 amx_bf16", "cpu amx-bf16")],
)
def test_a_verdict_on_a_processor_names_the_instructions_that_narrow_numbers_need(
    monkeypatch: pytest.MonkeyPatch, flags: str, device: str
) -> None:
    monkeypatch.setattr(processor, "features", lambda: frozenset(flags.split()))
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)

    assert processor.device_name("bf16") == device
    assert processor.computes("bf16") == (device != "cpu")
    assert processor.device_name("fp32") == "cpu"
    assert processor.is_cpu(device)
    assert not processor.is_cpu("NVIDIA H200")
