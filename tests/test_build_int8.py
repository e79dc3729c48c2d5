"""Engines in INT8: counted by what feeds their layers, never larger than FP16's, never made from nothing."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from segpipe.artifacts import ARTIFACTS, engine_for
from segpipe.errors import BuildError, ConfigError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.trt.building import BuiltEngine, Layer, build_engine
from stages.build import run as build
from stages.build.engines import build_one
from stages.build.precision import judge_precision, kept_nodes, refuse_larger
from stages.build.target import of_one, wanted_engines
from stages.config.root import BuildConfig
from stages.graphs.halving import half_suffix, to_half
from stages.graphs.quantising import FP8, quantised
from stages.graphs.types import element_types
from stages.results.figures import BuildFigures
from tests.small_builds import CONFIG, needs_rtx, request
from tests.test_quantising import branched, ranges
from tests.trained import trained_config

INT8 = CONFIG.model_copy(update={"precision": "int8"})
DEPTHWISE = frozenset({"c"})


def narrow(*chosen: str) -> onnx.ModelProto:
    model = branched()
    return quantised(to_half(model, set()), ranges(model), chosen, half_suffix(element_types(model))).model


def engine(*quantised_: bool) -> BuiltEngine:
    layers = (Layer(f"n{at}", "CONVOLUTION", "HALF", f"n{at}", one) for at, one in enumerate(quantised_))
    return BuiltEngine(b"plan", tuple(layers))


@needs_rtx
def test_an_engine_of_the_int8_graph_has_int8_layers_and_says_how_many() -> None:
    built, figures = build_one("tensorrt-rtx", request(narrow("a", "e", "logits")), INT8, DEPTHWISE)

    assert (figures["int8_share"], figures["int8_layers"], figures["compute_layers"]) == (1.0, 3, 4)
    assert {layer.node: layer.quantised for layer in built.layers} == {
        "a": True, "c": False, "e": True, "logits": True,
    }  # fmt: skip


@needs_rtx
def test_an_fp16_graph_sold_as_int8_fails_and_names_its_layers() -> None:
    with pytest.raises(BuildError, match=r"0% of 3 compute layers are INT8.*not in INT8: .*compress.keep"):
        build_one("tensorrt-rtx", request(to_half(branched(), set())), INT8, DEPTHWISE)


@needs_rtx
def test_a_zero_point_other_than_0_is_refused_by_the_builder() -> None:
    graph = narrow("a", "e", "logits")
    zero = next(tensor for tensor in graph.graph.initializer if tensor.name == "image.fp16 zero")
    zero.raw_data = b"\x01"

    with pytest.raises(BuildError):
        build_engine("tensorrt-rtx", request(graph))


def test_the_share_leaves_out_what_export_kept_and_must_reach_the_minimum() -> None:
    found = judge_precision(engine(True, True, False), INT8, frozenset({"n2"}))

    assert (found["int8_share"], found["int8_layers"]) == (1.0, 2)
    with pytest.raises(BuildError, match=r"67% of 3 compute layers are INT8, build.min_int8_share is 90%.*n2"):
        judge_precision(engine(True, True, False), INT8, frozenset())


def test_a_plan_larger_than_that_of_fp16_fails_with_the_likely_cause() -> None:
    refuse_larger(5_400_000, 5_400_000, "int8")

    with pytest.raises(BuildError, match=r"has 41.80 MB, FP16's 5.40 MB. .*grouped convolutions.*compress.keep"):
        refuse_larger(41_800_000, 5_400_000, "int8")


def test_what_stays_in_floats_is_read_from_the_exports_report() -> None:
    report = b"""{"schema_version": 1, "way": "ptq", "calibration": "minmax", "basis": "", "frames": {}, "graphs": {},
        "layers": [{"node": "a", "kept_for_engines": "depthwise"}, {"node": "b", "kept_for_fp8": "named"}]}"""

    assert (kept_nodes(report, "int8"), kept_nodes(report, "fp8")) == (frozenset("a"), frozenset("b"))
    with pytest.raises(BuildError, match=r"quantisation\.json"):
        kept_nodes(b"[]", "int8")


def test_an_int8_engine_has_a_row_of_its_own_also_where_nothing_else_is_built() -> None:
    alone, all_ = (BuildConfig(precision=wanted) for wanted in ("int8", ("fp16", "int8", "fp8")))

    assert [wanted.row.name for wanted in wanted_engines(alone)] == ["tensorrt-rtx-int8"]
    names = ["tensorrt-rtx", "tensorrt-rtx-int8", "tensorrt-rtx-fp8"]
    assert [wanted.row.name for wanted in wanted_engines(all_)] == names
    assert engine_for("tensorrt", "int8", alone=True) == ARTIFACTS["tensorrt-int8"]


@pytest.mark.parametrize(("precision", "setting"), [("int8", "compress.int8 = .ptq."), ("fp8", "compress.fp8 = true")])
def test_without_the_graph_the_setting_that_makes_it_is_named(precision: str, setting: str, trained_copy: Path) -> None:
    config = trained_config(trained_copy, f'build.precision="{precision}"')

    with pytest.raises(ConfigError, match=rf"names {precision}.*no model.{precision}.onnx.*{setting}"):
        build(RunDirectory(trained_copy), config, trained_copy)


def fp8(*capabilities: str) -> BuildConfig:
    return BuildConfig(precision="fp8", compute_capabilities=capabilities)


def test_an_fp8_engine_is_built_for_those_gpus_alone_that_compute_in_it() -> None:
    config = fp8("8.6", "8.9", "12.0")

    assert of_one(config, wanted_engines(config)[0]).compute_capabilities == ("8.9", "12.0")


@pytest.mark.parametrize(("named", "told"), [(("8.0", "8.6"), "8.0, 8.6"), ((), "none")])
def test_an_fp8_engine_for_no_gpu_that_computes_in_it_is_refused(
    named: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.build.target.gpu_name", lambda: None)
    config = fp8(*named)

    with pytest.raises(BuildError, match=rf"8.9 or later, this build is for {told}.*compute_capabilities"):
        of_one(config, wanted_engines(config)[0])


@pytest.mark.parametrize(("here", "able"), [("NVIDIA A10 (8.6)", False), ("NVIDIA H200 (9.0)", True)])
def test_named_by_nobody_an_fp8_engine_is_for_the_gpu_that_is_here(
    here: str, able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.build.target.gpu_name", lambda: here)
    config = fp8()

    if able:
        assert of_one(config, wanted_engines(config)[0]).compute_capabilities == ()
    else:
        with pytest.raises(BuildError, match=r"this build is for 8\.6"):
            of_one(config, wanted_engines(config)[0])


@needs_rtx
def test_an_engine_of_the_fp8_graph_has_fp8_layers_and_says_how_many() -> None:
    model = branched()
    suffix = half_suffix(element_types(model))
    graph = quantised(to_half(model, set()), ranges(model), ("a", "e", "logits"), suffix, FP8).model
    config = CONFIG.model_copy(update={"precision": "fp8", "compute_capabilities": ("8.9",)})

    _, figures = build_one("tensorrt-rtx", request(graph, compute_capabilities=("8.9",)), config, DEPTHWISE)

    assert (figures["fp8_share"], figures["fp8_layers"], figures["compute_layers"]) == (1.0, 3, 4)


def test_the_record_tells_its_share_and_not_that_of_fp16() -> None:
    figures = {"fp16_share": 1.0, "int8_share": 0.9, "int8_layers": 9, "compute_layers": 12, "engine_bytes": 2_000_000}
    found = BuildFigures.model_validate({"tensorrt-rtx-int8": figures})

    assert found.headline() == "tensorrt-rtx-int8 90% INT8"
    assert [*found.lines()] == ["engine      tensorrt-rtx-int8: 9 of 12 compute layers in INT8, 2.0 MB"]
    assert replace(engine(True), plan=b"").layers[0].quantised
