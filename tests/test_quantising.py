"""Graphs in INT8: ranges from frames, one scale a channel, floats where they are kept, the same bytes every time."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from segpipe.errors import DataError, ExportError
from segpipe.runtime.backends.session import open_session
from stages.data.choosing import spread
from stages.export.int8_search import not_for_engines
from stages.graphs.calibrating import Span, spans
from stages.graphs.folding import fold
from stages.graphs.halving import half_suffix, to_half
from stages.graphs.int8_alone import noise_of_layers
from stages.graphs.int8_layers import is_quantised, layers_of, residuals
from stages.graphs.int8_ranking import noise_db, ranked
from stages.graphs.quantising import FP8, INT8, LEAST_SCALE, EightBits, quantised
from stages.graphs.quantising_cpu import quantised_for_cpu
from stages.graphs.reading import check, to_bytes
from stages.graphs.rounding import rounded
from stages.graphs.running import opened
from stages.graphs.types import element_types, opset_of
from stages.measuring.bootstrap import LEAST, Pairs
from tests import tiny_graphs as tiny

RELU = helper.make_node("Relu", ["a"], ["b"], name="relu")
CLIP = helper.make_node("Clip", ["a", "low", "high"], ["b"], name="clip")
BOUNDS = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("low", 0), ("high", 6))]
EIGHT_BITS = 0.05
"""Relative error that two layers of 8 bits stay below on noise; a wrong scale gives ten times as much."""
E4M3 = 0.1
"""The same of FP8, whose three bits behind the point round by up to a sixteenth."""


def branched(opset: int = 18) -> onnx.ModelProto:
    """A residual addition around a depthwise convolution, and a head."""
    nodes = [
        tiny.conv("image", "w1", "a"),
        RELU,
        tiny.conv("b", "wd", "c", group=8),
        helper.make_node("Add", ["b", "c"], ["d"], name="add"),
        tiny.conv("d", "w2", "e"),
        helper.make_node("Add", ["d", "e"], ["f"], name="join"),
        tiny.conv("f", "w3", "logits"),
    ]
    weights = [
        tiny.weights("w1", 8, 3, 3, 3, scale=0.3),
        tiny.weights("wd", 8, 1, 3, 3, scale=0.3, seed=1),
        tiny.weights("w2", 8, 8, 3, 3, scale=0.1, seed=2),
        tiny.weights("w3", 4, 8, 3, 3, scale=0.2, seed=3),
    ]
    return tiny.graph(nodes, weights, opset=opset)


def bounded(bound: onnx.NodeProto) -> onnx.ModelProto:
    """Two convolutions, the second of which alone reads what is bounded."""
    weights = [tiny.weights("w1", 8, 3, 3, 3, scale=0.3), tiny.weights("w2", 4, 8, 3, 3, scale=0.2, seed=1)]
    nodes = [tiny.conv("image", "w1", "a"), bound, tiny.conv("b", "w2", "logits")]
    return tiny.graph(nodes, [*weights, *(BOUNDS if bound is CLIP else ())], opset=19)


def frames(count: int = 4) -> Iterator[np.ndarray]:
    return (np.random.default_rng(seed).standard_normal((1, 3, 16, 24)).astype(np.float32) for seed in range(count))


def ranges(model: onnx.ModelProto) -> dict[str, Span]:
    return spans(model, frames(), "image", "minmax")


def error(model: onnx.ModelProto, narrow: onnx.ModelProto) -> float:
    frame = next(frames())
    return tiny.relative_error(*(opened(graph)({"image": frame})[0] for graph in (model, narrow)))


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_a_range_spans_what_was_seen_and_percentiles_cut_its_rare_ends() -> None:
    whole, cut = (spans(tiny.plain(), frames(), "image", method) for method in ("minmax", "percentile"))
    expected = np.concatenate([*frames()])

    assert whole["image"] == Span(float(expected.min()), float(expected.max()))
    assert whole["b"].low == 0.0
    assert 0.5 * whole["a"].largest < cut["a"].largest < whole["a"].largest


def test_without_frames_or_with_frames_of_one_colour_nothing_is_calibrated() -> None:
    with pytest.raises(DataError, match=r"no calibration frames.*train split"):
        spans(tiny.plain(), (), "image", "minmax")
    with pytest.raises(DataError, match="all 3 calibration frames are of one colour"):
        spans(tiny.plain(), [np.ones((1, 3, 16, 24), np.float32)] * 3, "image", "minmax")


@pytest.mark.parametrize("worst", [np.inf, np.nan])
def test_a_range_without_end_is_refused_by_node(worst: float) -> None:
    model = tiny.plain()
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[0, 0, 0, 0] = worst
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w1"))

    with pytest.raises(ExportError, match="of node 'a' is no finite number"):
        spans(model, frames(), "image", "minmax")


def test_what_reads_stored_weights_is_a_layer_and_a_convolution_a_channel_is_depthwise() -> None:
    model = branched()

    assert [(layer.name, layer.axis, layer.depthwise) for layer in layers_of(model)] == [
        ("a", 0, False), ("c", 0, True), ("e", 0, False), ("logits", 0, False),
    ]  # fmt: skip
    assert [(node.name, index) for node, index in residuals(model)] == [("add", 0), ("join", 0)]


@pytest.mark.parametrize("opset", [17, 18, 20])
def test_engines_get_symmetric_int8_on_the_fp16_graph_and_depthwise_layers_in_fp16(opset: int) -> None:
    model = branched(opset)
    suffix, half = half_suffix(element_types(model)), to_half(model, set())
    narrow = quantised(half, ranges(model), {"a", "e", "logits"}, suffix).model
    check(narrow, "it")
    made = {name: node for node in narrow.graph.node for name in node.output}
    values = stored(narrow)
    pairs = [node for node in narrow.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]

    assert opset_of(narrow) >= 19
    assert {values[node.input[1]].dtype for node in pairs} == {np.dtype(np.float16)}
    assert {values[node.input[2]].dtype for node in pairs} == {np.dtype(np.int8)}
    assert not any(values[node.input[2]].any() for node in pairs)
    kinds = {node.name: [made[name].op_type for name in node.input[:2] if name in made]
             for node in narrow.graph.node if node.op_type == "Conv"}  # fmt: skip
    assert kinds["c"] != ["DequantizeLinear"] * 2
    assert kinds["a"] == kinds["e"] == kinds["logits"] == ["DequantizeLinear"] * 2
    assert made[next(node for node in narrow.graph.node if node.name == "join").input[0]].op_type == "DequantizeLinear"
    assert error(model, rounded(narrow)) < EIGHT_BITS


@pytest.mark.parametrize("bound", [RELU, CLIP], ids=["relu", "clip"])
def test_fp8_is_e4m3_on_the_fp16_graph_and_what_runs_for_it_here_keeps_its_bounds(bound: onnx.NodeProto) -> None:
    model = bounded(bound)
    half, suffix = to_half(model, set()), half_suffix(element_types(model))
    narrow = quantised(half, ranges(model), {"a", "logits"}, suffix, FP8).model
    check(narrow, "it")
    pairs = [node for node in narrow.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    kinds = {tensor.name: tensor.data_type for tensor in narrow.graph.initializer}

    assert opset_of(narrow) >= 19
    assert {kinds[node.input[2]] for node in pairs} == {TensorProto.FLOAT8E4M3FN}
    assert {kinds[node.input[1]] for node in pairs} == {TensorProto.FLOAT16}
    assert not any(stored(narrow)[node.input[2]].astype(np.float32).any() for node in pairs)
    assert error(model, rounded(narrow)) < E4M3
    assert set(noise_of_layers(model, narrow, next(frames()))) == {"a", "logits"}


def test_cpus_get_u8_with_weights_of_seven_bits_and_kept_layers_stay_floats() -> None:
    model = branched()
    narrow = quantised_for_cpu(model, ranges(model), {"e"})
    check(narrow, "it")
    values = stored(narrow)

    assert values["w2"].dtype == np.float32
    assert all(np.abs(v.astype(int)).max() <= 64 for v in values.values() if v.dtype == np.int8 and v.ndim == 4)
    assert any(v.dtype == np.uint8 for v in values.values())
    assert error(model, narrow) < EIGHT_BITS


def optimised(narrow: onnx.ModelProto, to: Path, **options: list[str]) -> onnx.ModelProto:
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(to)
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if options:
        onnxruntime.InferenceSession(to_bytes(narrow), settings, providers=["CPUExecutionProvider"], **options)
    else:
        open_session(to_bytes(narrow), settings, "CPUExecutionProvider")
    return onnx.load(str(to))


def test_kept_layers_are_still_floats_after_onnxruntimes_optimiser(tmp_path: Path) -> None:
    model = branched()
    narrow = quantised_for_cpu(model, ranges(model), {"e"})
    ours = optimised(narrow, tmp_path / "ours.onnx")
    usual = optimised(narrow, tmp_path / "usual.onnx", disabled_optimizers=["none of that name"])

    assert stored(ours)["w2"].dtype == np.float32
    assert "QLinearConv" in {node.op_type for node in ours.graph.node}
    assert "w2" not in stored(usual), "ONNX Runtime has ceased to quantise it: the reason to disable that is gone"


def test_the_same_ranges_give_the_same_bytes() -> None:
    model = branched()
    first, again = (to_bytes(quantised_for_cpu(model, ranges(model), {"e"})) for _ in range(2))
    engines = [to_bytes(quantised(model, ranges(model), {"a", "e"}).model) for _ in range(2)]

    assert first == again
    assert engines[0] == engines[1]


def test_channels_too_quiet_for_an_fp16_scale_get_the_least_one_and_are_counted() -> None:
    model = tiny.plain()
    values = numpy_helper.to_array(model.graph.initializer[1]).copy()
    values[1] = 1e-4
    values[2] = 0
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(values, "w2"))
    suffix = half_suffix(element_types(model))

    written = quantised(to_half(model, set()), ranges(model), {"logits"}, suffix)

    scales = stored(written.model)[f"w2{suffix} scale"]
    assert written.quiet == {"logits": 1}
    assert scales.dtype == np.float16
    assert scales[1] == scales[2] == np.float16(LEAST_SCALE)
    assert np.isfinite(scales).all()


@pytest.mark.parametrize(("largest", "too_quiet"), [(1e-6, [INT8, FP8]), (1e-3, [INT8]), (0.1, [])])
def test_engines_leave_layers_in_fp16_of_whose_input_its_scales_leave_nothing(
    largest: float, too_quiet: list[EightBits]
) -> None:
    model = branched()
    seen = ranges(model) | {"d": Span(-largest, 0.0)}

    found = {bits.name: not_for_engines(layers_of(model), seen, bits) for bits in (INT8, FP8)}

    assert [bits for bits in (INT8, FP8) if "too small for a scale" in found[bits.name].get("e", "")] == too_quiet
    assert all(set(kept) - {"e"} == {"c"} for kept in found.values())


def test_the_layer_that_8_bits_hurt_most_ranks_lowest() -> None:
    model = branched()
    values = numpy_helper.to_array(model.graph.initializer[2]).copy()
    values[:, 0] *= 1000  # the same channels hold next to nothing else
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(values, "w2"))

    seen = ranges(model)

    found = ranked(model, layers_of(model), lambda node: quantised(model, seen, {node}).model, [next(frames())])

    assert list(found) == ["a", "c", "e", "logits"]
    assert min(found.values()) < max(found.values())
    assert noise_db([np.ones(4)], [np.ones(4)]) > noise_db([np.ones(4)], [np.full(4, 1.1)]) == 20.0
    assert noise_db([np.ones(4)], [np.full(4, np.nan)]) < 0


def test_a_layer_is_measured_by_itself_whatever_happens_before_it() -> None:
    model = branched()
    narrow = quantised(model, ranges(model), {"a", "e", "logits"}).model
    for tensor in narrow.graph.initializer:
        if tensor.name == "w1 scale":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(3), tensor.name))

    found = noise_of_layers(model, narrow, next(frames()))

    assert set(found) == {"a", "e", "logits"}
    assert found["a"] < 0
    assert min(found["e"], found["logits"]) > 20


def test_a_quantised_graph_is_known_as_one() -> None:
    model = branched()

    assert not is_quantised(model)
    assert is_quantised(quantised(model, ranges(model), {"a"}).model)


def test_int8_of_others_stays_int8_when_it_is_imported() -> None:
    model = branched()
    theirs = quantised_for_cpu(model, ranges(model), ())

    folded = fold(theirs)

    kinds = [[node.op_type for node in graph.graph.node] for graph in (theirs, folded)]
    assert sorted(kinds[0]) == sorted(kinds[1])
    assert error(theirs, folded) == 0


@pytest.mark.parametrize("images", [LEAST, 64, 1000])
def test_the_interval_of_a_drop_holds_the_drop_and_needs_a_bounded_memory(images: int) -> None:
    rng, pairs, classes = np.random.default_rng(0), Pairs(), np.arange(3)
    for _ in range(images):
        counts = np.pad(np.diag(rng.integers(50, 100, 3)), ((0, 0), (0, 1)))
        moved = np.roll(np.diag(rng.integers(0, 5, 3)), 1, axis=1)
        pairs.add(counts, counts + np.pad(moved, ((0, 0), (0, 1))) - np.pad(np.diag(moved.sum(1)), ((0, 0), (0, 1))))

    drop = pairs.drop(classes)

    assert drop is not None
    assert 0 < drop.low <= drop.value <= drop.high < 0.2
    assert len(pairs._reference) <= 64


def test_few_images_and_no_classes_tell_no_interval() -> None:
    pairs, counts = Pairs(), np.eye(3, 4, dtype=np.int64)
    for _ in range(LEAST - 1):
        pairs.add(counts, counts)
    before = pairs.drop(np.arange(3))
    pairs.add(counts, counts)

    assert before is None
    assert pairs.drop(np.arange(0)) is None
    assert json.dumps(pairs.drop(np.arange(3)).__dict__) == '{"value": 0.0, "low": 0.0, "high": 0.0}'


def test_chosen_frames_lie_spread_over_the_split() -> None:
    assert spread(range(10), 3) == [0, 4, 9]
    assert spread([4, 5], 3) == [4, 5]
    assert spread([], 3) == []
