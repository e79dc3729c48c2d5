"""What runs and is no network to deploy is named at import; nodes in any order are sorted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from segpipe.contract.schema import Contract
from segpipe.errors import ContractError, InputError
from stages.config.file import FILE_NAME, load_config
from stages.config.root import BuildConfig
from stages.graphs.answers import remark_on
from stages.graphs.foreign import prove_runs
from stages.graphs.reading import check
from stages.graphs.sorting import names_inside
from tests.calling import call
from tests.importing import CLASSES, CONTRACT, adopted_here, imported
from tests.tiny_graphs import FLOAT, constant, conv, graph, image, plain, run, weights

Nodes = list[onnx.NodeProto]


def between(nodes: Nodes, tensors: list[onnx.TensorProto] = [], opset: int = 18) -> onnx.ModelProto:  # noqa: B006
    """Two convolutions with nodes in between that make `b` of `a`."""
    ends = [weights("w1", 8, 3, 3, 3, scale=0.3), weights("w2", 4, 8, 3, 3, scale=0.2, seed=1)]
    return graph([conv("image", "w1", "a"), *nodes, conv("b", "w2", "logits")], [*ends, *tensors], opset=opset)


def norm(outputs: list[str], **attributes: Any) -> Nodes:
    return [helper.make_node("BatchNormalization", ["a", "g", "z", "z", "g"], outputs, name="bn", **attributes)]


def dropout(*inputs: str) -> Nodes:
    return [helper.make_node("Dropout", ["a", *inputs], ["b"], name="drop")]


SCALES = [constant("g", [1.0] * 8), constant("z", [0.0] * 8)]
LIVE = [constant("ratio", 0.5), constant("yes", True, np.bool_)]
OFF = [constant("ratio", 0.5), constant("yes", False, np.bool_)]
LOTS = [helper.make_node("RandomNormalLike", ["a"], ["n"], name="noise"), helper.make_node("Add", ["a", "n"], ["b"])]
QUANTISED = [
    helper.make_node("DynamicQuantizeLinear", ["a"], ["q", "s", "p"], name="measure"),
    helper.make_node("DequantizeLinear", ["q", "s", "p"], ["b"]),
]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (between(norm(["b", "m", "v"], training_mode=1), SCALES), "BatchNormalization 'bn' still trains"),
        (between(norm(["b", "m", "v", "sm", "sv"]), SCALES, opset=11), "BatchNormalization 'bn' still trains"),
        (between(dropout("ratio", "yes"), LIVE), "Dropout 'drop' is live"),
        (between(LOTS), "RandomNormalLike 'noise' draws lots"),
        (between(QUANTISED), "DynamicQuantizeLinear 'measure' quantises dynamically"),
    ],
    ids=["batch norm", "old batch norm", "dropout", "noise", "dynamic quantisation"],
)
def test_what_trains_draws_lots_or_quantises_as_it_goes_is_named_at_import(
    model: onnx.ModelProto, words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        adopted_here(tmp_path, model)


@pytest.mark.parametrize(
    "model",
    [between(norm(["b"]), SCALES), between(dropout()), between(dropout("ratio", "yes"), OFF)],
    ids=["batch norm", "dropout", "dropout told not to"],
)
def test_the_same_operators_at_rest_are_taken(model: onnx.ModelProto, tmp_path: Path) -> None:
    assert len(adopted_here(tmp_path, model).graph.node) == len(model.graph.node)


def test_what_the_output_does_not_need_may_train(tmp_path: Path) -> None:
    model = plain()
    model.graph.node.append(helper.make_node("RandomNormalLike", ["a"], ["lots"]))

    assert "RandomNormalLike" not in {node.op_type for node in adopted_here(tmp_path, model).graph.node}


def test_every_kind_of_custom_operator_is_named_with_what_made_it(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("FusedConv", ["a", "w1"], ["x"], name="fused", domain="com.microsoft"),
        helper.make_node("Gelu2", ["x"], ["b"], domain="com.acme"),
    ]
    model = between(nodes)
    model.opset_import.extend([helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("com.acme", 1)])

    with pytest.raises(InputError, match=r"'fused'.*com\.microsoft::FusedConv; so are com\.acme::Gelu2") as caught:
        adopted_here(tmp_path, model)
    assert "import the one that it was given" in caught.value.hint


def shuffled(model: onnx.ModelProto) -> onnx.ModelProto:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def branching() -> onnx.ModelProto:
    """A branch that reads a tensor of the graph around it, and whose own nodes are in the wrong order."""
    inner = helper.make_graph(
        [helper.make_node("Relu", ["n"], ["c"]), helper.make_node("Neg", ["a"], ["n"])],
        "branch", [], [helper.make_tensor_value_info("c", FLOAT, None)],
    )  # fmt: skip
    either = helper.make_node("If", ["yes"], ["b"], name="if", then_branch=inner, else_branch=inner)
    return between([either], LIVE[1:])


@pytest.mark.parametrize("make", [plain, branching])
def test_nodes_in_any_order_are_sorted(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    found = adopted_here(tmp_path, shuffled(make()))

    check(found, "it")
    if make is plain:
        np.testing.assert_array_equal(run(found, image()), run(plain(), image()))


def test_a_name_that_a_branch_makes_for_itself_is_not_taken_from_around_it() -> None:
    inner = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["late"])], "branch", [], [helper.make_tensor_value_info("late", FLOAT, None)]
    )
    either = helper.make_node("If", ["yes"], ["b"], then_branch=inner, else_branch=inner)

    assert names_inside(either) == {"a"}


def test_sorted_nodes_stay_where_they_are(tmp_path: Path) -> None:
    names = [node.name for node in adopted_here(tmp_path, plain()).graph.node]

    assert names == [node.name for node in plain().graph.node]


def test_a_circle_of_nodes_is_one_line(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["a", "y"], ["x"], name="first"),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Relu", ["y"], ["b"]),
    ]

    with pytest.raises(InputError, match="form a circle: Add 'first'"):
        adopted_here(tmp_path, between(nodes))


def ending(*operators: str, kind: str = "logits", **changes: Any) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """plain() with operators after it."""
    model, name = plain(), "logits"
    for operator in operators:
        attributes = {"perm": [0, 2, 3, 1]} if operator == "Transpose" else {"axis": 1} if operator == "Softmax" else {}
        model.graph.node.append(helper.make_node(operator, [name], [operator.lower()], **attributes))
        name = operator.lower()
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(name, FLOAT, None))
    return model, {"output_name": name, "output_kind": kind, **changes}


@pytest.mark.parametrize(
    ("operators", "kind"),
    [(("Softmax",), "logits"), (("Softmax", "Identity", "Transpose"), "logits"), (("Sigmoid", "Identity"), "sigmoid")],
)
def test_scores_that_went_through_their_activation_are_not_raw(
    operators: tuple[str, ...], kind: str, tmp_path: Path
) -> None:
    model, changes = ending(*operators, kind=kind)
    two = {"classes": ["ground", "thing"]} if kind == "sigmoid" else {}
    if kind == "sigmoid":
        model.graph.initializer[1].CopyFrom(weights("w2", 1, 8, 3, 3))
    if "Transpose" in operators:
        changes["output_layout"] = "nhwc"
    model.graph.output[0].type.tensor_type.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in range(4))

    with pytest.raises(ContractError, match=f"has gone through a {operators[0]}.*output_kind = 'probabilities'"):
        adopted_here(tmp_path, model, **changes, **two)


def squashed(channels: int) -> onnx.ModelProto:
    """Values in [0, 1] that no Sigmoid and no Softmax made."""
    nodes = [helper.make_node("Abs", ["a"], ["p"]), helper.make_node("Add", ["p", "one"], ["q"])]
    if channels == 1:
        nodes += [helper.make_node("Div", ["p", "q"], ["logits"])]
    else:
        nodes += [
            helper.make_node("ReduceSum", ["q", "axis"], ["sum"], keepdims=1),
            helper.make_node("Div", ["q", "sum"], ["logits"]),
        ]
    tensors = [weights("w", channels, 3, 3, 3), constant("one", 1.0), constant("axis", [1], np.int64)]
    return graph([conv("image", "w", "a"), *nodes], tensors, outputs=[("logits", FLOAT, ("batch", channels, 16, 24))])


@pytest.mark.parametrize(
    ("channels", "changes", "advice"),
    [
        (1, {"classes": ["ground", "thing"], "output_kind": "sigmoid"}, "output_channels = 1"),
        (4, {}, "set output_kind = 'probabilities' in the contract"),
    ],
)
def test_values_that_look_like_probabilities_are_pointed_out(
    channels: int, changes: dict[str, Any], advice: str
) -> None:
    contract = Contract.model_validate(CONTRACT | changes)

    assert advice in remark_on(run(squashed(channels), image()), contract)
    assert remark_on(run(squashed(channels), image()) - 0.5, contract) == ""
    assert remark_on(run(squashed(channels), image()), contract.model_copy(update={"output_kind": "labels"})) == ""


def test_the_first_run_hands_the_remark_on(tmp_path: Path) -> None:
    file, contract = tmp_path / "model.onnx", Contract.model_validate(CONTRACT)
    file.write_bytes(squashed(4).SerializeToString())

    assert "as probabilities do" in prove_runs(file, contract, BuildConfig())


OTHERS = ["background", "disc", "triangle", "box"]


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (OTHERS, "class 2 is 'box' in the contract and 'triangle' in"),
        (list(CLASSES[:3]), "has 4 classes and .data. has 3: class 3 is 'triangle' in the contract and missing in"),
        ([*CLASSES, "ring"], "class 4 is missing in the contract and 'ring' in"),
    ],
)
def test_data_of_other_classes_is_refused_at_import(classes: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=words):
        imported(tmp_path, plain(), data={"kind": "folder", "root": "data", "classes": classes})

    assert not (tmp_path / "run").exists()


def test_a_settings_file_that_is_kept_beside_another_contract_is_told_of(tmp_path: Path) -> None:
    toml = (
        imported(tmp_path, plain(), data={"kind": "folder", "root": "data", "classes": list(CLASSES)}).path / FILE_NAME
    )
    again = ("import", tmp_path / "model.onnx", "--contract", tmp_path / "contract.toml", "-o", toml.parent)
    _, _, same = call(*again)
    toml.write_text(toml.read_text().replace(f'"{CLASSES[0]}"', '"other"'))
    _, _, told = call(*again)

    assert "is kept" not in same
    assert f"{toml} is kept, and its classes are not the contract's: mend or delete it" in " ".join(told.split())


def test_data_of_other_classes_written_later_is_refused_before_anything_is_judged(tmp_path: Path) -> None:
    folder = imported(tmp_path, plain(), data={"kind": "folder", "root": "data"}).path
    code, _, err = call("evaluate", folder, "--set", f"data.classes={OTHERS}")

    assert code == 1
    assert "class 2 is 'box' in the contract and 'triangle' in [data]" in err


def test_folder_data_takes_its_classes_from_the_contract(tmp_path: Path) -> None:
    folder = imported(tmp_path, plain(), data={"kind": "folder", "root": "data"}).path

    assert load_config(folder).data.classes == CLASSES  # type: ignore[union-attr]
