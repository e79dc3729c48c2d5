"""What FP16 cannot hold is found on real numbers, kept in FP32, and the reasons are told."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from segpipe.errors import ConfigError
from stages.graphs import naming
from stages.graphs.halving import to_half
from stages.graphs.islands import choose
from stages.graphs.ranges import measure
from stages.graphs.rounding import rounded
from tests.tiny_graphs import constant, conv, graph, image, loud, plain, relative_error, run, weights

FP16_ERROR = 3e-3  # relative L2 over a few layers: each rounds by 2e-4 to 5e-4


def islands_of(model: onnx.ModelProto, *wanted: str) -> dict[str, str]:
    naming.name_nodes(model)
    return {island.node: island.reason for island in choose(model, wanted, lambda: [image()], "image")}


def test_activation_of_1e5_is_found_and_the_result_is_right() -> None:
    islands = islands_of(loud(), "auto")

    assert set(islands) == {"louder", "softer"}
    assert "activations up to" in islands["louder"]
    assert np.isinf(run(rounded(to_half(loud(), set())), image())).any()
    assert relative_error(run(loud(), image()), run(rounded(to_half(loud(), set(islands))), image())) < FP16_ERROR


def test_weights_that_vanish_are_found_and_the_result_is_right() -> None:
    nodes = [conv("image", "w", "a"), helper.make_node("Mul", ["a", "up"], ["logits"], name="up")]
    model = graph(nodes, [weights("w", 4, 3, 3, 3, scale=1e-8), constant("up", 1e4)])

    islands = islands_of(model, "auto")

    assert "weights 'w' change by" in islands["a"]
    assert relative_error(run(model, image()), run(rounded(to_half(model, set())), image())) > 0.1  # without
    assert relative_error(run(model, image()), run(rounded(to_half(model, set(islands))), image())) < FP16_ERROR


def test_layers_that_lose_digits_are_found_and_the_result_is_better() -> None:
    """Two nearly equal channels are subtracted, sixty times enlarged: a batch norm folded over a dead channel."""
    model = graph(
        [
            conv("image", "same", "a"),
            helper.make_node("Mul", ["a", "tilt"], ["b"], name="b"),
            helper.make_node("Conv", ["b", "difference"], ["logits"], name="difference"),
        ],
        [
            numpy_helper.from_array(
                np.repeat(np.random.default_rng(1).normal(size=(1, 3, 3, 3)), 2, 0).astype(np.float32), "same"
            ),
            numpy_helper.from_array(np.array([1, 1.001], np.float32).reshape(1, 2, 1, 1), "tilt"),
            numpy_helper.from_array(60 * np.array([1, -1] * 4, np.float32).reshape(4, 2, 1, 1), "difference"),
        ],
    )

    islands = islands_of(model, "auto")

    without, with_ = (
        relative_error(run(model, image()), run(rounded(to_half(model, set(kept))), image())) for kept in ((), islands)
    )
    assert {"b", "difference"} <= set(islands)
    assert "turns a rounding error of" in islands["difference"]
    assert with_ < without / 4


def test_an_honest_network_keeps_nothing_in_fp32() -> None:
    assert islands_of(plain(), "auto") == {}


def test_weights_are_probed_without_frames() -> None:
    nodes = [conv("image", "w", "a"), helper.make_node("Mul", ["a", "up"], ["logits"], name="up")]
    model = graph(nodes, [weights("w", 4, 3, 3, 3, scale=1e-8), constant("up", 1e4)])

    found = choose(model, ["weights"], lambda: pytest.fail("no frames are needed"), "image")

    assert [island.node for island in found] == ["a"]


def test_activations_that_vanish_are_found() -> None:
    nodes = [
        helper.make_node("Mul", ["image", "down"], ["a"], name="down"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        conv("b", "w", "logits"),
    ]
    model = graph(nodes, [weights("w", 4, 3, 3, 3), constant("down", 1e-7)])

    assert set(islands_of(model, "auto")) == {"down", "relu", "logits"}


def test_healthy_network_has_no_islands() -> None:
    assert islands_of(plain(), "auto") == {}


def test_named_nodes_modules_and_patterns_are_kept() -> None:
    model = plain()
    naming.name_nodes(model)
    scopes = "['', 'head', 'head.conv', 'conv2d']"
    model.graph.node[2].metadata_props.add(key=naming.NAME_SCOPES, value=scopes)

    assert set(islands_of(model, "relu")) == {"relu"}
    assert set(islands_of(model, "head")) == {"logits"}
    assert set(islands_of(model, "rel*", "head.conv")) == {"relu", "logits"}


def test_unknown_name_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"no module or node 'haed'.*it has a, relu, logits"):
        islands_of(plain(), "haed")


def test_ranges_are_those_of_numpy() -> None:
    nodes = [helper.make_node("Mul", ["image", "two"], ["a"], name="a"), conv("a", "w", "logits")]
    model = graph(nodes, [weights("w", 4, 3, 3, 3), constant("two", -2.0)])
    frames = [image(), 3 * image()]

    seen = measure(model, frames, "image")["a"]

    doubled = np.concatenate([2 * frame.ravel() for frame in frames])
    assert seen.largest == pytest.approx(np.abs(doubled).max())
    assert seen.rms == pytest.approx(np.sqrt((doubled**2).mean()), rel=1e-5)


def test_nan_in_the_fp32_network_is_unsafe_even_when_later_frames_are_fine() -> None:
    nodes = [helper.make_node("Sqrt", ["image"], ["a"], name="root"), conv("a", "w", "logits")]
    model = graph(nodes, [weights("w", 4, 3, 3, 3)])

    found = choose(model, ["auto"], lambda: [image(), np.abs(image())], "image")

    assert "root" in {island.node for island in found}
