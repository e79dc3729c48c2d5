"""What an engine computes in: its share of FP16, by the parsed network and by the inspector."""

import json
from typing import Any

import numpy as np
import onnx
import pytest

from segpipe.errors import BuildError
from segpipe.runtime.trt.building import (
    BuiltEngine,
    Layer,
)
from segpipe.runtime.trt.inspecting import half_nodes
from stages.build.engines import build_one
from stages.build.precision import judge_precision
from stages.graphs.halving import to_half
from tests.small_builds import CONFIG, needs_rtx, request
from tests.tiny_graphs import plain


def engine(*layers: tuple[str, str]) -> BuiltEngine:
    return BuiltEngine(b"plan", tuple(Layer(node, "CONVOLUTION", dtype, node) for node, dtype in layers))


@needs_rtx
def test_engine_of_an_fp16_graph_is_fp16_and_its_figures_are_told() -> None:
    built, figures = build_one("tensorrt-rtx", request(to_half(plain(), set())), CONFIG, frozenset())

    assert figures["fp16_share"] == 1.0
    assert figures["compute_layers"] == 2
    assert figures["engine_bytes"] == len(built.plan) > 0
    assert figures["peak_memory_bytes"] > figures["engine_bytes"]
    assert figures["seconds"] > 0


@needs_rtx
def test_fp32_graph_asked_to_be_fp16_fails_and_names_the_layers() -> None:
    with pytest.raises(BuildError, match=r"0% of 2 compute layers are FP16.*a \(convolution, FLOAT\), logits"):
        build_one("tensorrt-rtx", request(plain()), CONFIG, frozenset())


@needs_rtx
def test_islands_are_kept_apart() -> None:
    half = request(to_half(plain(), {"a"}))

    _, figures = build_one("tensorrt-rtx", half, CONFIG, frozenset({"a"}))

    assert (figures["fp32_island_layers"], figures["fp16_share"]) == (1, 1.0)
    with pytest.raises(BuildError, match=r"50% of 2 compute layers"):
        build_one("tensorrt-rtx", half, CONFIG, frozenset())


def test_share_ignores_islands_and_must_reach_the_minimum() -> None:
    layers = [(f"n{index}", "HALF") for index in range(9)]

    good = judge_precision(engine(*layers, ("n9", "FLOAT")), CONFIG, frozenset())

    assert good["fp16_share"] == 0.9
    with pytest.raises(BuildError, match=r"by the parsed network 80% of 10 .*n8 \(convolution, FLOAT\)"):
        judge_precision(engine(*layers[:8], ("n8", "FLOAT"), ("n9", "FLOAT")), CONFIG, frozenset())


def test_fp32_build_is_not_held_to_fp16() -> None:
    config = CONFIG.model_copy(update={"precision": "fp32"})

    assert judge_precision(engine(("a", "FLOAT")), config, frozenset())["fp16_share"] == 0.0


def test_engine_that_says_it_is_fp32_fails_although_its_network_was_fp16() -> None:
    layers = [{"Name": "a + relu", "Inputs": [{"Format/Datatype": "Float"}]}]

    with pytest.raises(BuildError, match="by the engine inspector 0% of 1"):
        judge_precision(engine(("a", "HALF")), CONFIG, frozenset(), json.dumps({"Layers": layers}))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ({"Name": "a + relu", "Inputs": [{"Format/Datatype": "Half"}]}, {"a": True}),
        ({"Metadata": "[ONNX Layer: a]\x1e[ONNX Layer: b]", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]},
         {"a": False, "b": False}),
        ({"Metadata": "[ONNX Layer: b]", "Inputs": [{"Format/Datatype": "Channel major FP16 format"}]}, {"b": True}),
        ({"Name": "a", "Inputs": [{"Name": "x"}]}, {}),
        ("a", {}),
    ],
)  # fmt: skip
def test_inspector_json_is_read(layer: Any, expected: dict[str, bool]) -> None:
    assert half_nodes(json.dumps({"Layers": [layer]}), {"a", "b"}) == expected


@pytest.mark.parametrize("answer", ["", " ", "{", "[]", '{"Layers": []}'])
def test_an_inspector_that_says_nothing_leaves_the_parsed_network_s_share(answer: str) -> None:
    figures = judge_precision(engine(("a", "HALF")), CONFIG, frozenset(), answer)

    assert (figures["fp16_share"], figures["inspected_layers"]) == (1.0, 0)


def test_parsed_types_are_those_of_the_graph() -> None:
    """What TensorRT parsed must be what ONNX says, or the share would be a story."""
    half = to_half(plain(), {"a"})

    types = {tensor.name: tensor.data_type for tensor in half.graph.initializer}

    assert types == {"w1": onnx.TensorProto.FLOAT, "w2.fp16": onnx.TensorProto.FLOAT16}
    assert np.prod(half.graph.initializer[0].dims) == 8 * 3 * 9
