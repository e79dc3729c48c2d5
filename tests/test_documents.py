"""JSON that is damaged, hostile or of a newer version is one typed line with a next action, wherever a run holds it."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from segpipe import Segmenter, testing
from segpipe.contract.schema import Contract
from segpipe.errors import ContractError, InputError, ManifestError, SegpipeError
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.manifest import load
from segpipe.rundir.status import run_status
from segpipe.rundir.storage import sha256_of_bytes
from segpipe.rundir.verify import verify
from segpipe.runtime.opening import build_options
from segpipe.runtime.request import BuiltFor, OpenOptions
from stages.report import write_report
from stages.results.benchmark import read_report as read_benchmark
from stages.results.ending import figure_lines
from stages.results.gate import read_report as read_gate
from stages.validate.hops.stored import StoredReference
from tests.old_runs import unpack
from tests.refusals import refused

UPGRADE = "upgrade segpipe: pip install -U segpipe"
NO_JSON = [
    "",
    "[1, 2",
    "[" * 100_000,
    '{"schema": ' * 3_000 + "1" + "}" * 3_000,
    '{"schema": ' + "9" * 5_000 + "}",
    '"\\ud800"',
    "\x00",
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return testing.make_run(tmp_path / "run")


def replaced(path: Path, stage: str, name: str, data: bytes) -> Path:
    """The run with other bytes in an output, which its manifest vouches for: written by another version, or forged."""
    record = load(path).stages[stage]
    (path / record.path / name).write_bytes(data)
    text = (path / "manifest.json").read_text()
    content = json.loads(text)
    content["stages"][stage]["outputs"][name] = {"sha256": sha256_of_bytes(data), "size_bytes": len(data)}
    (path / "manifest.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("text", NO_JSON)
def test_what_is_no_json_is_refused_everywhere(text: str, run: Path) -> None:
    data = text.encode()

    assert "is not JSON" in refused(ContractError, lambda: Contract.from_json(text, "the model"))
    for name, error in (("verdicts.json", InputError), ("palette.json", InputError), ("contract.json", ContractError)):
        stage = "validate" if name == "verdicts.json" else "export"
        broken = replaced(testing.make_run(run.parent / name), stage, name, data)
        assert "is not JSON" in refused(error, lambda broken=broken: Segmenter.open(broken))  # type: ignore[misc]
    (run / "config.json").write_bytes(data)
    assert "is not JSON" in refused(ManifestError, lambda: run_status(RunDirectory(run)))
    (run / "manifest.json").write_bytes(data)
    assert "is not JSON" in refused(ManifestError, lambda: RunDirectory(run))


@pytest.mark.parametrize(
    "palette",
    ["{}", "[]", "null", "[[1, 2, 3]]", "[[0, 0, 256], [0, 0, 0], [0, 0, 0], [0, 0, 0]]",
     "[[0, 0, -1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]", '[["red", 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]',
     "[[0.5, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]", "[[1, 2], [1, 2], [1, 2], [1, 2]]",
     "[[1, 2, 3, 4], [0, 0, 0], [0, 0, 0], [0, 0, 0]]"],
)  # fmt: skip
def test_a_palette_is_a_colour_a_class(palette: str, run: Path) -> None:
    said = refused(InputError, lambda: Segmenter.open(replaced(run, "export", "palette.json", palette.encode())))

    assert "palette" in said


@pytest.mark.parametrize("verdicts", ["{}", "null", "[1]", "[[]]", '[{"artifact": 1}]', '"passed"'])
def test_verdicts_of_wrong_types_are_refused(verdicts: str, run: Path) -> None:
    replaced(run, "validate", "verdicts.json", verdicts.encode())

    assert "is not a list of verdicts" in refused(InputError, lambda: Segmenter.open(run))


@pytest.mark.parametrize(
    "config",
    ["[]", "{}", '{"chosen": {}, "resolved": []}', '{"chosen": {"train": 1}, "resolved": {"train": 1}}',
     '{"chosen": {}, "resolved": {}, "toml_sha256": 7}'],
)  # fmt: skip
def test_a_config_of_wrong_types_is_refused(config: str, run: Path) -> None:
    (run / "config.json").write_text(config)

    assert "move it aside" in refused(ManifestError, lambda: run_status(RunDirectory(run)))
    assert "move it aside" in refused(ManifestError, lambda: RunDirectory(run).save_config({}))
    assert (run / "config.json").read_text() == config


def newer_manifest(run: Path) -> Callable[[], object]:
    content = json.loads((run / "manifest.json").read_text())
    content["stages"]["train"]["signature"] = "new"
    (run / "manifest.json").write_text(json.dumps(content))
    return lambda: RunDirectory(run)


def newer_schema(run: Path) -> Callable[[], object]:
    content = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**content, "schema": 2, "stages": []}))
    return lambda: RunDirectory(run)


def newer_verdicts(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], Callable[[], object]]:
    def act(run: Path) -> Callable[[], object]:
        content = change(json.loads(RunDirectory(run).artifact_bytes("validate", "verdicts.json")))
        replaced(run, "validate", "verdicts.json", json.dumps(content).encode())
        return lambda: Segmenter.open(run, "onnxruntime-cpu")

    return act


def newer_file(
    stage: str, name: str, read: Callable[[RunDirectory, bytes], object], **fields: Any
) -> Callable[[Path], Callable[[], object]]:
    def act(run: Path) -> Callable[[], object]:
        content = json.loads(RunDirectory(run).artifact_bytes(stage, name)) | fields
        data = json.dumps(content).encode()
        replaced(run, stage, name, data)
        return lambda: read(RunDirectory(run), data)

    return act


def opened(run: RunDirectory, data: bytes) -> object:
    return Segmenter.open(run.path)


def read_judged(data: bytes) -> object:
    return read_gate(data, "r", "judge again")


NEWER = {
    "manifest schema": newer_schema,
    "manifest field": newer_manifest,
    "verdict field": newer_verdicts(lambda found: [{**entry, "signed_by": "x"} for entry in found]),
    "verdict status": newer_verdicts(lambda found: [{**entry, "status": "waived"} for entry in found]),
    "verdicts in an object": newer_verdicts(lambda found: {"schema": 2, "verdicts": found}),
    "contract version": newer_file("export", "contract.json", opened, version=2),
    "contract field": newer_file("export", "contract.json", opened, temperature=1.5),
    "contract value": newer_file("export", "contract.json", opened, output_kind="panoptic"),
    "palette": newer_file("export", "precision.json", lambda run, _: replaced(
        run.path, "export", "palette.json", b'{"schema": 2, "colours": []}') and Segmenter.open(run.path)),
    "gate report schema": newer_file("validate", "report.json", lambda _, data: read_judged(data), schema_version=2),
    "gate report field": newer_file("validate", "report.json", lambda _, data: read_judged(data), mood="good"),
    "benchmark schema": newer_file(
        "benchmark", "report.json", lambda _, data: read_benchmark(data, "r"), schema_version=2),
    "benchmark field": newer_file("benchmark", "report.json", lambda _, data: read_benchmark(data, "r"), mood="good"),
    "stored reference schema": newer_file(
        "validate", "reference.json", lambda run, _: StoredReference(run), schema_version=2),
    "stored reference field": newer_file(
        "validate", "reference.json", lambda run, _: StoredReference(run), mood="good"),
    "gate report on the report's page": newer_file(
        "validate", "report.json", lambda run, _: write_report(run), schema_version=2),
}  # fmt: skip


@pytest.mark.parametrize("case", NEWER)
def test_what_a_newer_version_wrote_says_to_upgrade(case: str, tmp_path: Path) -> None:
    act = NEWER[case](unpack("run", tmp_path))

    assert UPGRADE in refused(SegpipeError, act)


def test_the_report_says_that_a_newer_benchmark_needs_an_upgrade(tmp_path: Path) -> None:
    run = unpack("run", tmp_path)
    newer_file("benchmark", "report.json", lambda *_: None, schema_version=2)(run)

    assert UPGRADE in write_report(RunDirectory(run)).read_text()


@pytest.mark.parametrize(
    ("field", "value"),
    [("started_utc", "yesterday"), ("started_utc", "0001-01-01T00:00:00+14:00"), ("seconds", "NaN"), ("seconds", -1),
     ("outputs", {"a": {"sha256": "", "size_bytes": 1 << 70}}), ("outputs", {"a": {"sha256": "", "size_bytes": -1}})],
)  # fmt: skip
def test_a_record_holds_figures_that_can_be_shown(field: str, value: Any, run: Path) -> None:
    content = json.loads((run / "manifest.json").read_text())
    content["stages"]["export"][field] = value
    (run / "manifest.json").write_text(json.dumps(content))

    assert field in refused(ManifestError, lambda: RunDirectory(run))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ON_A_BUSY_MACHINE = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)
WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)  # each example writes files
FIELDS = st.sampled_from(
    ["failed", "agreement", "unjudged", "status", "p50_ms", "faster_than_eager", "doubts", "test_miou", "fp16_share",
     "export"]
)  # fmt: skip


@given(figures=st.dictionaries(FIELDS, JSON, max_size=4), params=st.dictionaries(FIELDS, JSON, max_size=2))
@settings(suppress_health_check=ON_A_BUSY_MACHINE, max_examples=50, phases=WITHOUT_SHRINKING)
def test_whatever_figures_say_show_tells_the_state(figures: dict[str, Any], params: dict[str, Any], run: Path) -> None:
    content = json.loads((run / "manifest.json").read_text())
    content["stages"]["validate"] |= {"figures": figures, "params": params}
    (run / "manifest.json").write_text(json.dumps(content))

    assert {line.stage for line in run_status(RunDirectory(run))} == {"export", "validate"}
    assert verify(RunDirectory(run))[0] == 4


@pytest.mark.parametrize(
    "figures",
    [3, None, [], {"built_for": 3}, {"built_for": {"gpu": 7}}, {"built_for": {"mood": "good"}},
     {"built_for": {"hardware_compatibility": "newer"}}],
)  # fmt: skip
def test_an_engine_whose_record_is_not_read_is_built_for_nothing_known(figures: Any, run: Path) -> None:
    text = (run / "manifest.json").read_text()
    content = json.loads(text)
    content["stages"]["build"] = {
        **content["stages"]["export"], "path": f"build/{'0' * 12}", "outputs": {}, "figures": {"tensorrt-rtx": figures}
    }  # fmt: skip
    (run / "manifest.json").write_text(json.dumps(content))

    assert build_options(RunDirectory(run), "tensorrt-rtx", OpenOptions()).built_for == BuiltFor()


@given(stage=st.sampled_from(["train", "build", "validate", "benchmark"]), figures=st.dictionaries(FIELDS, JSON))
@example(stage="validate", figures={})
@example(stage="build", figures={"tensorrt-rtx": 3})
@example(stage="benchmark", figures={"p50_ms": 1.0, "faster_than_eager": 2})
@settings(suppress_health_check=ON_A_BUSY_MACHINE, max_examples=50, phases=WITHOUT_SHRINKING)
def test_whatever_figures_say_a_run_ends_in_a_line_a_stage(stage: str, figures: dict[str, Any], run: Path) -> None:
    content = json.loads((run / "manifest.json").read_text())
    (record,) = list(content["stages"].values())[:1]
    content["stages"] = {stage: {**record, "path": f"{stage}/{'0' * 12}", "figures": figures}}
    (run / "manifest.json").write_text(json.dumps(content))

    assert len(figure_lines(RunDirectory(run))) <= 1


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(suppress_health_check=ON_A_BUSY_MACHINE, max_examples=50, phases=WITHOUT_SHRINKING)
def test_any_bytes_as_a_manifest_are_read_or_refused(run: Path, data: bytes) -> None:
    (run / "manifest.json").write_bytes(data)
    with suppress(ManifestError):
        assert RunDirectory(run).manifest.schema_version == 1
