"""What FP16 cannot hold is found on real numbers, kept in FP32, and the reasons are told."""

import re

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


def biased(value: float) -> onnx.ModelProto:
    """A convolution whose bias has this value everywhere."""
    model = plain()
    model.graph.node[0].input.append("bias")
    model.graph.initializer.append(constant("bias", [value] * 8))
    return model


def test_bias_that_vanishes_needs_no_island() -> None:
    model = biased(1e-9)

    assert islands_of(model, "auto") == {}
    assert relative_error(run(model, image()), run(rounded(to_half(model, set())), image())) < FP16_ERROR


def test_bias_too_large_for_fp16_is_found() -> None:
    assert "weights 'bias' change by" in islands_of(biased(1e6), "weights")["a"]


def test_tiny_weight_that_is_added_and_multiplied_is_found() -> None:
    model = biased(1e-9)
    model.graph.node[1].CopyFrom(helper.make_node("PRelu", ["a", "bias"], ["b"], name="relu"))

    assert set(islands_of(model, "weights")) == {"a", "relu"}


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
    assert "cancel to" in islands["difference"]
    assert with_ < without / 4


def test_an_honest_network_keeps_nothing_in_fp32() -> None:
    assert islands_of(plain(), "auto") == {}


def test_weights_are_probed_without_frames() -> None:
    nodes = [conv("image", "w", "a"), helper.make_node("Mul", ["a", "up"], ["logits"], name="up")]
    model = graph(nodes, [weights("w", 4, 3, 3, 3, scale=1e-8), constant("up", 1e4)])

    found = choose(model, ["weights"], lambda: pytest.fail("no frames are needed"), "image")

    assert [island.node for island in found] == ["a"]


def cancelling(level: float) -> onnx.ModelProto:
    """A layer brings its input to `level`, the next takes that level away again: a folded batch norm can do this."""
    nodes = [
        helper.make_node("Conv", ["image", "w1", "up"], ["high"], name="high", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["high", "w2", "down"], ["rest"], name="rest"),
        helper.make_node("Relu", ["rest"], ["active"], name="relu"),
        conv("active", "w3", "logits"),
    ]
    back = weights("w2", 4, 8, 1, 1, scale=0.3)
    taken = -level * numpy_helper.to_array(back).sum((1, 2, 3))
    tensors = [weights("w1", 8, 3, 3, 3, scale=0.2), constant("up", np.full(8, level)), back, constant("down", taken)]
    return graph(nodes, [*tensors, weights("w3", 4, 4, 3, 3, seed=1)])


def test_terms_that_cancel_are_found_and_the_result_is_right() -> None:
    model = cancelling(1000.0)

    islands = islands_of(model, "auto")

    assert set(islands) == {"high", "rest"}
    assert "cancel to" in islands["rest"]
    assert relative_error(run(model, image()), run(rounded(to_half(model, set())), image())) > 0.1  # without
    assert relative_error(run(model, image()), run(rounded(to_half(model, set(islands))), image())) < FP16_ERROR


def test_ordinary_biases_are_no_cancellation() -> None:
    assert islands_of(cancelling(3.0), "auto") == {}


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
    assert set(islands_of(model, "head.*")) == {"logits"}


def test_overlapping_names_make_one_island_a_node_with_the_first_reason() -> None:
    model = plain()
    for index, scopes in ((0, "['', 'body', 'body.first', 'conv2d']"), (1, "['', 'body', 'body.act', 'relu']")):
        model.graph.node[index].metadata_props.add(key=naming.NAME_SCOPES, value=scopes)

    islands = islands_of(model, "weights", "body", "body.first", "a", "body.*", "relu")

    assert islands == dict.fromkeys(("a", "relu"), "named in export.fp32_islands: body")


def test_measured_reason_goes_before_a_name() -> None:
    assert "activations up to" in islands_of(loud(), "auto", "louder")["louder"]


@pytest.mark.parametrize("name", ["haed", "", "he*", "a."])
def test_name_that_means_nothing_is_refused_with_what_there_is_even_beside_others(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"no module or node '{re.escape(name)}'.*it has a, relu, logits"):
        islands_of(plain(), "auto", "relu", name)


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
