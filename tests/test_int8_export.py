"""A run with [compress] int8: what export leaves, what judges and opens it, and that nobody gets it unasked."""

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segpipe import Segmenter, processor
from segpipe.artifacts import ARTIFACTS, FP8_GRAPH, INT8_CPU_GRAPH, INT8_GRAPH
from segpipe.errors import ConfigError, DataError, NotValidatedError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.backends import load_opener
from segpipe.runtime.opening import run_contract
from segpipe.runtime.request import OpenOptions
from segpipe.verdict import LocalVerdict, local_files
from stages.config.root import Config, DeployConfig
from stages.data import Split, SplitName, open_split
from stages.export.calibration import frames_for
from stages.export.int8_page import page
from stages.pipeline import Selection, run_stages
from stages.report import write_report
from stages.results.gate import read_report
from stages.results.quantisation import (
    FILE_NAME,
    PAGE_NAME,
    Quantisation,
    QuantisedGraph,
    QuantisedLayer,
    TriedGraph,
)
from stages.validate.hops.opening import STANDS, OpenHops, Stand
from stages.validate.hops.rounded import BACKEND, rounded_bytes
from stages.validate.judging.checks import verdict_of
from stages.validate.judging.gate import _is_by_name_only
from stages.validate.judging.judge import Judge
from stages.validate.pages.page import html
from stages.validate.without_pytorch import validate_hop
from tests.good_run import Good
from tests.int8_run import Narrow, narrow
from tests.trained import trained_config

CPU_ROWS = [name for name, row in ARTIFACTS.items() if row.precision == "int8" and not row.needs_gpu]
SETTINGS = ('compress.int8="ptq"', "compress.fp8=true", "compress.calibration_images=8", 'compress.keep="head"')


@pytest.fixture(scope="module")
def made(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Narrow:
    return narrow(trained_run, tmp_path_factory.mktemp("int8"))


@pytest.fixture(scope="module")
def exported(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported again with INT8, and each INT8 hop that runs here judged by the stored reference."""
    run = Path(shutil.copytree(trained_run, tmp_path_factory.mktemp("int8") / "run"))
    run_stages(run, trained_config(run, *SETTINGS), run, Selection("export", "export"))
    for name in CPU_ROWS:
        validate_hop(RunDirectory(run), name)
    return run


def test_export_writes_all_graphs_and_says_what_became_of_each_layer(exported: Path) -> None:
    run = RunDirectory(exported)
    report = json.loads(run.artifact_bytes("export", FILE_NAME))
    figures = run.record("export").figures

    assert {INT8_GRAPH, INT8_CPU_GRAPH, FP8_GRAPH, FILE_NAME} <= set(run.record("export").outputs)
    assert report["frames"]["split"] == "train"
    assert set(report["graphs"]) == {INT8_GRAPH, INT8_CPU_GRAPH, FP8_GRAPH}
    assert len(report["layers"]) == figures["quantisable_layers"] > 0
    assert [layer["module"] for layer in report["layers"] if layer["kept_for_engines"]] == ["head"]
    assert [layer["module"] for layer in report["layers"] if layer["kept_for_fp8"]] == ["head"]
    assert max(figures["int8_size_ratio"], figures["fp8_size_ratio"]) < 0.5


def test_an_export_with_int8_is_fresh_and_one_without_it_is_as_ever(
    exported: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = trained_config(exported, *SETTINGS)

    run_stages(exported, config, exported, Selection("export", "export"))

    assert "export: fresh, nothing to do" in caplog.messages
    assert "compress" not in trained_config(exported).sections("export")
    assert trained_config(exported, "compress.calibration_images=3").chosen_int8() == {}
    limits = ("min_miou=0.5", "max_relative_l2_int8=0.2", "max_miou_drop_int8=0.02")
    others = [f"validate.limits.{limit}" for limit in limits]
    assert trained_config(exported, *SETTINGS, *others).chosen_int8()["limits"] == {"max_miou_drop_int8": 0.02}


@pytest.mark.parametrize("name", CPU_ROWS)
def test_its_verdict_names_the_instructions_and_it_opens_when_it_is_asked_for(name: str, exported: Path) -> None:
    verdicts = [found.verdict for _, found in local_files(RunDirectory(exported)) if isinstance(found, LocalVerdict)]
    device = next(verdict.device for verdict in verdicts if verdict.backend == name)

    with Segmenter.open(exported, ARTIFACTS[name].backend, precision="int8") as segmenter:
        mask = segmenter(np.zeros((48, 80, 3), np.uint8))
        told = segmenter.describe()["backend"]

    assert device == processor.device_name("int8") != "cpu"
    assert (mask.shape, told) == ((48, 80), name)


@pytest.mark.parametrize("stand", STANDS[1:], ids=lambda stand: stand.name)
def test_the_graph_that_engines_are_built_from_is_judged_too_and_fails_no_run(stand: Stand, exported: Path) -> None:
    run, good = RunDirectory(exported), Good.of(exported)
    with OpenHops(run, good.contract) as opened:
        hop = opened.open_rounded(stand, rounded_bytes(run.artifact_bytes("export", stand.file)), BACKEND)
        judge = Judge(good.setup, good.stored, [hop])
        for image in good.images:
            judge.add(image)
        judge.finish()

    assert (hop.name, hop.artifact, hop.precision) == (stand.name, stand.file, stand.name)
    verdict = verdict_of(judge.states[stand.name].checks(good.setup))
    assert verdict in {"passed", "failed" if stand.name == "fp8" else "passed"}  # three bits of mantissa are few
    assert _is_by_name_only(hop, DeployConfig())


def test_nobody_gets_it_unasked(exported: Path) -> None:
    with Segmenter.open(exported, "cpu") as segmenter:
        assert segmenter.describe()["backend"] not in CPU_ROWS


def test_without_a_verdict_it_stays_closed(exported: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(exported, tmp_path / "run"))
    for path, _ in [*local_files(RunDirectory(run))]:
        path.unlink()

    with pytest.raises(NotValidatedError, match="--hop onnxruntime-cpu-int8"):
        Segmenter.open(run, "onnxruntime-cpu", precision="int8")


def test_made_again_from_the_same_the_bytes_are_the_same_and_the_ranking_is_kept(
    made: Narrow, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    again = made.again(made.made.files[FILE_NAME])

    assert again.files == made.made.files
    assert all(layer["noise_db"] is not None for layer in json.loads(again.files[FILE_NAME])["layers"])
    assert any("the ranking of layers is the last export's" in message for message in caplog.messages)


@pytest.mark.parametrize("before", [b"", b"[]", b'{"basis": 3}'])
def test_a_last_report_that_says_nothing_costs_a_ranking_and_nothing_else(before: bytes, made: Narrow) -> None:
    again = made.again(before)

    assert again.files == made.made.files


def test_fp8_can_be_had_without_int8(made: Narrow) -> None:
    alone = made.again(int8="off", fp8=True, keep=("head",))
    report = json.loads(alone.files[FILE_NAME])

    assert alone.files.keys() == {FP8_GRAPH, FILE_NAME, PAGE_NAME}
    assert {name for name in alone.figures if name.startswith("int8")} == set()
    assert [layer["kept_for_cpus"] for layer in report["layers"] if layer["kept_for_cpus"]] == []
    assert b"FP8 alone, dB" in alone.files[PAGE_NAME]
    assert b"INT8 alone, dB" not in alone.files[PAGE_NAME]


def test_layers_that_are_named_stay_in_floats_and_others_do_not(made: Narrow) -> None:
    report = json.loads(made.again(keep=("head", "down4.*")).files[FILE_NAME])
    kept = {layer["module"] for layer in report["layers"] if layer["kept_for_cpus"]}

    assert kept == {"head", "down4.1", "down4.4"}
    assert {layer["noise_db"] for layer in report["layers"]} == {None}


def test_a_name_that_no_layer_has_is_refused_with_the_names(made: Narrow) -> None:
    with pytest.raises(ConfigError, match=r"compress.keep: the network has no module or node 'hand'.*head"):
        made.again(keep=("hand",))


def test_a_network_that_is_quantised_already_is_left_alone(made: Narrow) -> None:
    import onnx

    from stages.export.int8 import int8_files
    from stages.export.int8_search import Graphs

    full = onnx.load_model_from_string(made.cpu)
    with pytest.raises(ConfigError, match=r"came with INT8 inside.*compress.int8 = .off."):
        int8_files(Graphs(full, full, made.graphs.input_name), made.config, made.frames, None)


def test_limits_that_no_choice_meets_leave_every_layer_in_floats_and_say_so(
    made: Narrow, caplog: pytest.LogCaptureFixture
) -> None:
    limits = made.config.validate_.limits.model_copy(update={"max_miou_drop_int8": -1.0})
    strict = made.config.validate_.model_copy(update={"limits": limits})
    impossible = replace(made, config=made.config.model_copy(update={"validate_": strict}))

    report = json.loads(impossible.again(made.made.files[FILE_NAME]).files[FILE_NAME])

    tried = [trial["kept"] for trial in report["graphs"][INT8_CPU_GRAPH]["trials"]]
    assert tried == sorted(tried)
    assert tried[-1] == len(report["layers"])
    assert "the limits need it" in report["layers"][0]["kept_for_cpus"]
    assert any("INT8 does not hold for this network: miou_drop" in message for message in caplog.messages)


def test_a_network_from_elsewhere_is_calibrated_on_what_the_gate_leaves_of_val(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = open_split
    contract = run_contract(RunDirectory(trained_run))

    def without_train(config: Config, base: Path, split: SplitName) -> Split:
        if split == "train":
            raise DataError("there is none", hint="")
        return usual(config, base, split)

    monkeypatch.setattr("stages.export.calibration.open_split", without_train)
    frames = frames_for(trained_config(tmp_path, "validate.images=5"), tmp_path, contract, trained_here=False)

    assert (frames.name, len(frames.calibrated)) == ("val", 3)
    with pytest.raises(DataError, match="the gate judges by all 8 frames of val"):
        frames_for(trained_config(tmp_path), tmp_path, contract, trained_here=False)


def test_weights_have_seven_bits_because_eight_saturate_where_products_are_added_in_16() -> None:
    """What AVX2 does without VNNI: two products of u8 and s8 in one sum of 16 bits."""
    largest = np.iinfo(np.int16).max

    assert largest < 2 * 255 * 127
    assert largest >= 2 * 255 * 64


@pytest.mark.parametrize("name", CPU_ROWS)
def test_a_processor_without_any_instructions_for_it_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "features", frozenset)

    assert processor.computes("int8") is False
    assert callable(load_opener(name))
    assert OpenOptions().precision == "fp32"


def test_the_page_tells_every_layer_its_cost_and_why_it_stays_in_floats(exported: Path) -> None:
    run = RunDirectory(exported)
    text = (exported / "latest/export" / PAGE_NAME).read_text()
    layers = json.loads(run.artifact_bytes("export", FILE_NAME))["layers"]

    assert all(f'<th scope="row">{layer["module"]}' in text for layer in layers)
    assert "<strong>head</strong>: named in compress.keep: head" in text
    assert text.count('class="bar') >= len(layers)
    assert not re.search(r"<script|http|src=", text)


def test_pages_lead_to_that_of_the_ranges_and_it_leads_back(exported: Path) -> None:
    run = RunDirectory(exported)
    report = write_report(run)
    ranges = exported / "latest/export" / PAGE_NAME
    gate = html(read_report(run.artifact_bytes("validate", "report.json"), "it", ""), [], {}, quantised=True)

    def leads_to(text: str, page: Path) -> set[Path]:
        return {(page.parent / href).resolve() for href in re.findall(r'<a href="([^"#]+)', text)}

    assert ranges.resolve() in leads_to(report.read_text(), report)
    assert ranges.resolve() in leads_to(gate, exported / "latest/validate/gate.html")
    for its in (ranges, run.artifact("export", PAGE_NAME)):
        assert leads_to(its.read_text(), its) == {
            report.resolve(), (exported / "latest/validate/gate.html").resolve(),
        }  # fmt: skip


def test_a_name_of_a_layer_cannot_inject_markup_and_a_layer_without_range_has_none() -> None:
    layer = QuantisedLayer(node="<b>n</b>", kept_for_cpus="<i>", noise_db=25.0)
    graph = QuantisedGraph(kept=1, noise_db=30.0, trials=(TriedGraph(kept=1, agreement=1, worst_image=1),))
    report = Quantisation(way="ptq", calibration="minmax", basis="", graphs={INT8_CPU_GRAPH: graph}, layers=(layer,))

    text = page(report)

    assert "<b>n" not in text
    assert "<i>" not in text
    assert 'class="bar large"' in text
    assert "nan" not in text
