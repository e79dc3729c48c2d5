"""Somebody else's ONNX that tells things one by one: taken by a contract, or refused with what to write instead."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from segpipe.contract.schema import METADATA_KEY, InstanceContract, read_any
from segpipe.errors import ContractError
from stages.graphs.things_answers import refuse_other_things, remark_on_things
from stages.graphs.things_outputs import outputs_of_things
from stages.import_model import read_description
from tests.importing import adopted_here, write
from tests.tiny_graphs import FLOAT, constant, graph, weights

INT64 = TensorProto.INT64
TOP = 4
FORMS: dict[str, tuple[int, tuple[Any, ...]]] = {
    "boxes": (FLOAT, ("batch", TOP, 4)),
    "scores": (FLOAT, ("batch", TOP)),
    "labels": (INT64, ("batch", TOP)),
    "masks": (FLOAT, ("batch", TOP, 4, 6)),
}
CONTRACT = InstanceContract(
    network_size=(16, 24), classes=("ground", "disc", "box"), things=("disc", "box"), top=TOP, dense_names=("heat",)
)
FIELDS: dict[str, Any] = {
    "task": "instances", "classes": ["ground", "disc", "box"], "things": ["disc", "box"], "top": TOP,
    "dense_names": ["heat"],
}  # fmt: skip


def detector(**forms: tuple[int, tuple[Any, ...]]) -> onnx.ModelProto:
    """The best cells of a convolution, each a box of eight pixels. `heat` is inside of the graph, no output."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["heat"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Sigmoid", ["heat"], ["chance"]),
        helper.make_node("Flatten", ["chance"], ["flat"]),
        helper.make_node("TopK", ["flat", "k"], ["scores", "index"]),
        helper.make_node("Div", ["index", "cells"], ["labels"]),
        helper.make_node("Mod", ["index", "cells"], ["cell"]),
        helper.make_node("Unsqueeze", ["cell", "last"], ["cells_of"]),
        helper.make_node("Cast", ["cells_of"], ["at"], to=FLOAT),
        helper.make_node("Add", ["at", "square"], ["boxes"]),
        helper.make_node("Gather", ["heat", "first"], ["masks"], axis=1),
    ]
    tensors = [
        weights("w", 2, 3, 4, 4), constant("k", [TOP], np.int64), constant("cells", [24], np.int64),
        constant("last", [2], np.int64), constant("square", [0, 0, 8, 8]), constant("first", [0] * TOP, np.int64),
    ]  # fmt: skip
    outputs = [(name, kind, sides) for name, (kind, sides) in (FORMS | forms).items()]
    return graph(nodes, tensors, outputs=outputs)


def adopted(folder: Path, model: onnx.ModelProto | None = None, **changes: Any) -> onnx.ModelProto:
    return adopted_here(folder, model or detector(), **FIELDS | changes)


def test_a_graph_for_things_keeps_its_rows_and_what_they_are_picked_from(tmp_path: Path) -> None:
    found = adopted(tmp_path)
    (text,) = (entry.value for entry in found.metadata_props if entry.key == METADATA_KEY)
    contract = read_any(text, "it")

    assert isinstance(contract, InstanceContract)
    assert [value.name for value in found.graph.output] == [*FORMS, "heat"] == [*contract.output_names]
    onnx.checker.check_model(found)


def test_boxes_alone_leave_the_masks_out(tmp_path: Path) -> None:
    found = adopted(tmp_path, masks="none")

    assert [value.name for value in found.graph.output] == ["boxes", "scores", "labels", "heat"]
    assert "Gather" not in {node.op_type for node in found.graph.node}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes_name": "where"}, r"output 'where' is not in the graph.*boxes_name to one of: boxes, scores"),
        ({"dense_names": ["cold"]}, "tensor 'cold' is not in the graph"),
        ({"dense_names": []}, "no tensor that the gate could compare"),
        ({"dense_names": ["index"]}, "'index' is int64, a map holds numbers with a point"),
        ({"dense_names": ["flat"]}, "'flat' has 2 dimensions"),
        ({"top": 9}, "has 4 rows, the contract's top is 9.*set top = 4"),
        ({"task": "boxes"}, "'boxes' is none of semantic, instances"),
        ({"things": ["cat"]}, "things names what is no class"),
        ({"output_name": "boxes"}, "known here: .*boxes_name"),
        ({"semantic_name": "heat", "dense_names": []}, "'heat' has 2 channels for 3 classes"),
    ],
)
def test_a_contract_that_does_not_fit_is_refused_with_what_to_write(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ContractError, match=message):
        adopted(tmp_path, **changes)


@pytest.mark.parametrize(
    ("forms", "message"),
    [
        ({"boxes": (FLOAT, ("batch", "count", 4))}, "any number of rows, .*no static form"),
        ({"boxes": (FLOAT, (TOP, 4))}, "has 2 dimensions, the contract's is BxKx4.*batch axis"),
        ({"boxes": (FLOAT, ("batch", TOP, 6))}, "6 numbers a row, a box has 4"),
        ({"masks": (FLOAT, ("batch", TOP, 1, 4, 6))}, "5 dimensions, the contract's is BxKxhxw"),
        ({"scores": (INT64, ("batch", TOP))}, "'scores' is int64"),
    ],
)
def test_outputs_of_another_form_are_refused_with_what_to_do(forms: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        outputs_of_things(detector(**forms), CONTRACT, "it")


def test_a_preset_for_masks_is_none_for_things(tmp_path: Path) -> None:
    _, toml = write(tmp_path, detector(), **FIELDS)
    preset: Any = "ultralytics"

    with pytest.raises(ContractError, match="is for masks"):
        read_description(toml, preset)


ASKED = np.zeros((1, 3, 16, 24), np.float32)


def told(**changed: NDArray[Any]) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {
        "boxes": np.full((1, TOP, 4), 8, np.float32),
        "scores": np.full((1, TOP), 0.5, np.float32),
        "labels": np.ones((1, TOP), np.int64),
        "masks": np.full((1, TOP, 4, 6), -3, np.float32),
        "heat": np.zeros((1, 2, 4, 6), np.float32),
    }
    return found | changed


def test_an_answer_as_the_contract_says_is_taken_without_a_word() -> None:
    refuse_other_things(ASKED, told(), CONTRACT, "it")

    assert remark_on_things(told(), CONTRACT) == ""


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"boxes": np.zeros((1, 9, 4))}, "'boxes' is 1x9x4 .* the contract says 1x4x4"),
        ({"masks": np.zeros((4, 1, 28, 28))}, "'masks' is 4x1x28x28 .* says 1x4xanyxany"),
        ({"scores": np.full((1, TOP), 7.0)}, "scores lie between 0 and 1"),
        ({"labels": np.full((1, TOP), 2)}, "numbers from 2 to 2, the contract's things are 0 to 1"),
    ],
)
def test_an_answer_of_another_form_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        refuse_other_things(ASKED, told(**changed), CONTRACT, "it")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"boxes": np.full((1, TOP, 4), 0.5)}, "shares of the frame"),
        ({"masks": np.full((1, TOP, 4, 6), 0.5)}, "as probabilities do"),
    ],
)
def test_an_answer_that_looks_wrong_is_remarked_on(changed: dict[str, Any], words: str) -> None:
    assert words in remark_on_things(told(**changed), CONTRACT)
