"""What a stranger's graph stores: every tensor can be read, or import names the one that cannot."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from segpipe.errors import ContractError, InputError
from stages.graphs.facts import facts_of
from stages.graphs.naming import NAME_SCOPES, modules_of
from tests.importing import adopted_here
from tests.tiny_graphs import FLOAT, constant, conv, graph, plain, weights

Change = Callable[[onnx.ModelProto], object]


def sparse_constant(model: onnx.ModelProto) -> None:
    held = SparseTensorProto(values=weights("few", 2), indices=constant("at", [0, 5], np.int64), dims=[8, 3, 3, 3])
    value = AttributeProto(name="sparse_value", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=held)
    node = helper.make_node("Constant", [], ["w1"], name="few")
    node.attribute.append(value)
    del model.graph.initializer[0]
    model.graph.node.insert(0, node)


def a_part(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].segment.end = 1


def too_many_bytes(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data += b"\0" * 400


def nan_inside(model: onnx.ModelProto) -> None:
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[0, 0, 0, 0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w1"))


def nan_in_a_branch(model: onnx.ModelProto) -> None:
    inner = helper.make_graph(
        [helper.make_node("Add", ["a", "k"], ["c"], name="add")],
        "branch", [], [helper.make_tensor_value_info("c", FLOAT, None)], [constant("k", np.nan)],
    )  # fmt: skip
    either = helper.make_node("If", ["yes"], ["b"], name="if", then_branch=inner, else_branch=inner)
    model.graph.node[1].CopyFrom(either)
    model.graph.initializer.append(constant("yes", True, np.bool_))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (sparse_constant, "tensor 'w1' is sparse.*dense"),
        (a_part, "tensor 'w1' cannot be read: .*segments"),
        (too_many_bytes, "tensor 'w1' cannot be read"),
        (nan_inside, "tensor 'w1' holds NaN"),
        (nan_in_a_branch, "tensor 'k' holds NaN"),
    ],
)
def test_a_tensor_that_cannot_be_used_is_named(change: Change, words: str, tmp_path: Path) -> None:
    model = plain()
    change(model)

    with pytest.raises(InputError, match=words) as raised:
        adopted_here(tmp_path, model)
    assert "\n" not in str(raised.value)


def test_what_the_output_does_not_need_may_be_anything(tmp_path: Path) -> None:
    model = plain()
    model.graph.initializer.append(constant("unused", np.nan))
    model.training_info.add().algorithm.CopyFrom(plain().graph)
    adopted = adopted_here(tmp_path, model)

    assert [tensor.name for tensor in adopted.graph.initializer] == ["w1", "w2"]
    assert not adopted.training_info


def test_an_output_of_constants_alone_is_told(tmp_path: Path) -> None:
    model = graph(
        [conv("still", "w1", "logits")], [weights("w1", 4, 3, 3, 3), weights("still", 1, 3, 16, 24)],
        outputs=(("logits", FLOAT, (1, 4, 16, 24)),),
    )  # fmt: skip

    with pytest.raises(ContractError, match=r"input 'image' is not in the graph.*constants alone"):
        adopted_here(tmp_path, model)


@pytest.mark.parametrize("inputs", [["logits"], []], ids=["a circle", "of nothing"])
def test_facts_of_a_file_that_nobody_has_checked_come_to_an_end(inputs: list[str]) -> None:
    model = plain()
    model.graph.node[2].CopyFrom(helper.make_node("Identity", inputs, ["logits"]))
    model.graph.initializer.append(TensorProto(name="odd", data_type=99))

    assert facts_of(model).outputs[0].last_operator == ""


def test_a_function_called_for_more_than_it_gives_is_refused(tmp_path: Path) -> None:
    model = plain()
    inner = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("acme", "f", ["x"], ["y"], inner, [helper.make_opsetid("", 18)]))
    model.graph.node[1].CopyFrom(helper.make_node("f", ["a"], ["b", "c", "d"], domain="acme"))
    model.opset_import.append(helper.make_opsetid("acme", 1))

    with pytest.raises(InputError, match="its functions cannot be inlined") as raised:
        adopted_here(tmp_path, model)
    assert "\n" not in str(raised.value)


def test_onnxs_domain_by_its_longer_name_is_taken_and_two_versions_of_it_are_not(tmp_path: Path) -> None:
    model = plain()
    model.opset_import[0].domain = model.graph.node[0].domain = "ai.onnx"
    adopted = adopted_here(tmp_path, model)
    model.opset_import.append(helper.make_opsetid("", 11))

    assert {entry.domain for entry in adopted.opset_import} == {""}
    with pytest.raises(InputError, match="needs opsets 11 and 18 at once"):
        adopted_here(tmp_path, model)


def test_nodes_of_one_name_get_names_of_their_own(tmp_path: Path) -> None:
    model = plain()
    for node in model.graph.node:
        node.name = "same"

    assert len({node.name for node in adopted_here(tmp_path, model).graph.node}) == 3


@pytest.mark.parametrize("scopes", ["[", "f(x)", "5", "[[1], 2, 'op']", "[" * 5000])
def test_module_names_that_are_none_are_passed_over(scopes: str) -> None:
    node = helper.make_node("Relu", ["a"], ["b"])
    node.metadata_props.add(key=NAME_SCOPES, value=scopes)

    assert modules_of(node) == []
