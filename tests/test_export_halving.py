"""FP32 graphs become FP16 graphs that are valid, small, and give nearly the same numbers."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from stages.graphs.halving import halved, shape_values, to_half
from stages.graphs.rounding import rounded
from tests.tiny_graphs import FLOAT, HALF, constant, conv, graph, image, loud, plain, relative_error, run, weights

FP16_ERROR = 3e-3  # relative L2 over a few layers: each rounds by 2e-4 to 5e-4


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def casts(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Cast" for node in model.graph.node)


def checked(model: onnx.ModelProto) -> onnx.ModelProto:
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("opset", [11, 13, 18, 22])
def test_half_graph_is_valid_keeps_its_interface_and_its_numbers(opset: int) -> None:
    model = plain(opset)

    half = checked(to_half(model, set()))

    assert [value.type for value in half.graph.input] == [value.type for value in model.graph.input]
    assert [value.type for value in half.graph.output] == [value.type for value in model.graph.output]
    assert set(types_of(half).values()) == {HALF}
    assert casts(half) == 2
    assert relative_error(run(model, image()), run(rounded(half), image())) < FP16_ERROR


def test_graph_ending_in_resize_keeps_its_output_type() -> None:
    scales = constant("scales", [1, 1, 2, 2])
    nodes = [
        conv("image", "w1", "a"),
        helper.make_node(
            "Resize", ["a", "", "scales"], ["logits"], name="up", mode="linear",
            coordinate_transformation_mode="half_pixel",
        ),
    ]  # fmt: skip
    model = graph(nodes, [weights("w1", 4, 3, 3, 3), scales], outputs=[("logits", FLOAT, ("batch", 4, 32, 48))])

    half = checked(to_half(model, set()))

    assert types_of(half)["scales"] == FLOAT  # ONNX allows no other
    assert run(half, image()).dtype == np.float32
    assert relative_error(run(model, image()), run(rounded(half), image())) < FP16_ERROR


def test_shared_weights_are_stored_once_and_in_both_types_only_when_an_island_shares_them() -> None:
    nodes = [conv("image", "w", "a"), conv("a", "w", "logits")]
    outputs = [("logits", FLOAT, ("batch", 3, 16, 24))]
    model = graph(nodes, [weights("w", 3, 3, 3, 3, scale=0.3)], outputs=outputs)

    everywhere, one_island = checked(to_half(model, set())), checked(to_half(model, {"a"}))

    assert sorted(types_of(everywhere).values()) == [HALF]
    assert sorted(types_of(one_island).values()) == [FLOAT, HALF]
    assert relative_error(run(model, image()), run(rounded(one_island), image())) < FP16_ERROR


def test_island_computes_in_fp32() -> None:
    half = checked(to_half(loud(), {"a", "louder", "softer"}))

    assert np.isinf(run(rounded(to_half(loud(), set())), image())).any()  # plain FP16 overflows
    assert relative_error(run(loud(), image()), run(rounded(half), image())) < FP16_ERROR


def test_sizes_computed_from_shapes_stay_exact() -> None:
    """In FP16 a side of 2049 would become 2048."""
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"], name="shape"),
        helper.make_node("Slice", ["shape", "two", "four"], ["size"], name="size"),
        helper.make_node("Cast", ["size"], ["size_float"], name="size_float", to=FLOAT),
        helper.make_node("Mul", ["size_float", "one"], ["scaled"], name="scaled"),
        helper.make_node("Cast", ["scaled"], ["scaled_int"], name="scaled_int", to=TensorProto.INT64),
        helper.make_node("Concat", ["channels", "scaled_int"], ["target"], name="target", axis=0),
        helper.make_node("Resize", ["image", "", "", "target"], ["logits"], name="resize"),
    ]
    constants = [
        *(constant("two", [2], np.int64), constant("four", [4], np.int64)),
        *(constant("one", 1.0), constant("channels", [1, 3], np.int64)),
    ]
    model = graph(nodes, constants, (1, 3, "height", "width"), [("logits", FLOAT, (1, 3, "h", "w"))])

    half = checked(to_half(model, set()))

    assert {"size_float", "scaled"} <= shape_values(model)
    assert run(half, image(1, 3, 3, 2049)).shape == (1, 3, 3, 2049)


def test_shape_of_a_half_tensor_is_taken_without_a_cast() -> None:
    nodes = [
        conv("image", "w1", "a"),
        helper.make_node("Shape", ["a"], ["size"], name="size"),
        helper.make_node("Resize", ["a", "", "", "size"], ["logits"], name="resize"),
    ]
    model = graph(nodes, [weights("w1", 4, 3, 3, 3, scale=0.3)])

    half = checked(to_half(model, set()))

    assert [node.op_type for node in half.graph.node] == ["Cast", "Conv", "Shape", "Resize", "Cast"]
    assert relative_error(run(model, image()), run(rounded(half), image())) < FP16_ERROR
    assert relative_error(run(model, image()), run(half, image())) < FP16_ERROR


def test_branches_take_what_they_capture_in_fp32() -> None:
    def branch(name: str, operator: str) -> onnx.GraphProto:
        node = helper.make_node(operator, ["a"], [name], name=name)
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, FLOAT, None)])

    nodes = [
        conv("image", "w1", "a"),
        helper.make_node(
            "If", ["yes"], ["b"], name="if", then_branch=branch("then", "Relu"), else_branch=branch("else", "Neg")
        ),
        conv("b", "w2", "logits"),
    ]
    model = graph(
        nodes, [weights("w1", 8, 3, 3, 3), weights("w2", 4, 8, 3, 3), constant("yes", True, np.bool_)]
    )  # fmt: skip

    half = to_half(model, set())

    assert relative_error(run(model, image()), run(half, image())) < FP16_ERROR


def test_uint8_input_and_several_readers_need_one_cast() -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], name="pixels", to=FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["a"], name="a"),
        conv("a", "w1", "b"),
        conv("a", "w2", "c"),
        helper.make_node("Add", ["b", "c"], ["logits"], name="logits"),
    ]
    tensors = [weights("w1", 4, 3, 3, 3), weights("w2", 4, 3, 3, 3, seed=2), constant("scale", 1 / 255)]
    model = graph(nodes, tensors, kind=TensorProto.UINT8)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 24), np.uint8)

    half = checked(to_half(model, set()))

    assert casts(half) == 2  # uint8 to FP16, and the output to FP32
    assert relative_error(run(model, pixels), run(rounded(half), pixels)) < FP16_ERROR


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_weights_round_to_nearest_and_never_to_infinity(values: list[float]) -> None:
    exact = np.array(values, np.float32)

    half = halved(numpy_helper.from_array(exact, "w"))

    finite = np.isfinite(exact)
    assert np.isfinite(half[finite]).all()
    small = np.abs(exact) < 60000
    assert (half[small] == exact[small].astype(np.float16)).all()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(["Relu", "Sigmoid", "Add", "Conv", "Concat", "Tanh"]), min_size=1, max_size=7),
    st.sets(st.integers(0, 6)),
)
def test_any_mix_of_islands_gives_a_valid_graph(operators: list[str], islands: set[int]) -> None:
    nodes, current, before = [], "image", "image"
    for index, operator in enumerate(operators):
        name = f"n{index}"
        inputs = {"Add": [current, before], "Concat": [current, before], "Conv": [current, "w"]}.get(
            operator, [current]
        )
        options = {"Conv": {"pads": [1, 1, 1, 1]}, "Concat": {"axis": 2}}.get(operator, {})
        if operator == "Add" and len(set(operators)) != len({*operators} - {"Concat"}):
            inputs = [current, current]  # heights differ after a concatenation
        if operator == "Concat":
            inputs = [current, current]
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **options))  # type: ignore[arg-type]
        before, current = current, name
    model = graph(nodes, [weights("w", 3, 3, 3, 3, scale=0.2)], outputs=[(current, FLOAT, (2, 3, "h", 24))])

    half = checked(to_half(model, {f"n{index}" for index in islands}))

    expected, found = run(model, image(), current), run(rounded(half), image(), current)
    assert found.dtype == np.float32
    assert relative_error(expected, found) < FP16_ERROR


@pytest.mark.parametrize("scale", [1.0, 200.0, 1e-6])
def test_rounded_graph_gives_what_half_precision_hardware_gives(scale: float) -> None:
    """The definition: FP32 accumulation, the result rounded to FP16, at any scale."""
    nodes = [conv("image", "w", "a"), helper.make_node("Mul", ["a", "one"], ["logits"], name="logits")]
    model = graph(nodes, [weights("w", 4, 3, 3, 3, scale=scale), constant("one", 1.0)])
    kernel = torch.from_numpy(numpy_helper.to_array(model.graph.initializer[0]).astype(np.float16).astype(np.float32))
    pixels = image() * (300 if scale > 100 else 1)
    pixels = pixels.astype(np.float16).astype(np.float32)

    found = run(rounded(to_half(model, set())), pixels)

    expected = torch.nn.functional.conv2d(torch.from_numpy(pixels), kernel, padding=1).half().float().numpy()
    both = np.isfinite(expected) & np.isfinite(found)
    step = np.spacing(np.abs(expected[both]).astype(np.float16)).astype(np.float32)
    assert (np.isinf(found) == np.isinf(expected)).mean() > 0.999  # sums at the edge of overflow may differ
    assert (np.abs(found[both] - expected[both]) <= step).all()


def test_rounded_graph_shows_an_overflow_that_the_fp16_graph_hides_on_a_cpu() -> None:
    half = to_half(loud(), set())

    hidden, shown = run(half, image()), run(rounded(half), image())

    assert np.isfinite(hidden).all()  # why ONNX Runtime's CPU provider is no judge of FP16 files
    assert not np.isfinite(shown).all()
