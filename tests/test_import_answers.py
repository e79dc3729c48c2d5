"""What an imported graph answers is held to its contract when it first runs, whatever shapes it declares."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from segpipe.errors import ContractError
from stages.config.file import load_config
from stages.pipeline import Selection, run_stages
from tests.importing import adopted_here, imported
from tests.test_import_model import _write_pair
from tests.tiny_graphs import FLOAT, HALF, constant, image, plain
from tests.tiny_graphs import run as of_logits

TWO = {"classes": ["ground", "thing"]}
LABELS = {"output_kind": "labels"}
EXPORT = Selection("export", "export")


def ending(*nodes: onnx.NodeProto, rank: int = 4, kind: int = FLOAT, shape: Sequence[Any] = ()) -> onnx.ModelProto:
    """`plain`, whose logits go on through `nodes` to `answer`, of sides that nobody declares."""
    model = plain()
    model.graph.node.extend(nodes)
    del model.graph.output[:]
    sides = [f"side{axis}" for axis in range(rank)]
    model.graph.output.append(helper.make_tensor_value_info("answer", kind, sides))
    model.graph.initializer.append(constant("first", [0], np.int64))
    if shape:
        for side, value in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
            side.dim_value = value
    return model


def same() -> onnx.ModelProto:
    return ending(helper.make_node("Identity", ["logits"], ["answer"], name="same"))


def first_channels(count: int) -> onnx.ModelProto:
    model = ending(helper.make_node("Slice", ["logits", "first", "count", "channel"], ["answer"], name="cut"))
    model.graph.initializer.extend([constant("count", [count], np.int64), constant("channel", [1], np.int64)])
    return model


def pooled(stride: int) -> onnx.ModelProto:
    pool: dict[str, Any] = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}
    return ending(helper.make_node("AveragePool", ["logits"], ["answer"], name="pool", **pool))


def without_batch() -> onnx.ModelProto:
    return ending(
        helper.make_node("ArgMax", ["logits"], ["labels"], name="argmax", axis=1, keepdims=0),
        helper.make_node("Squeeze", ["labels", "first"], ["answer"], name="squeeze"),
        rank=2, kind=TensorProto.INT64, shape=(1, 3, 16, 24),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        (same(), {"classes": ["a", "b", "c"]}, r"1x4x16x24.* 4 channels.* 3 classes need 3\. name 4 classes"),
        (first_channels(2), TWO | {"output_kind": "sigmoid"}, r"2 channels.* need 1\. set output_kind = 'logits'"),
        (first_channels(1), TWO, r"1 channels.* need 2\. set output_kind = 'sigmoid'"),
        (same(), {"output_layout": "nhwc"}, r"24 channels in layout nhwc.* set output_layout = 'nchw'"),
        (pooled(4), {"output_stride": 2}, r"1x4x4x6 .* not output_stride 2\. set output_stride = 4"),
        (pooled(4), {}, r"not output_stride 1\. set output_stride = 4"),
        (same(), LABELS, r"4 channels, labels have one\. set output_kind = 'logits'"),
        (without_batch(), LABELS, r"16x24 for an input of 1x3x16x24, labels are NxHxW.* batch axis"),
        (same(), {"output_kind": "probabilities"}, r"values from -.*between 0 and 1\. set output_kind = 'logits'"),
    ],
    ids=["classes", "sigmoid", "softmax", "layout", "stride", "no stride", "labels", "no batch", "probabilities"],
)
def test_an_answer_that_contradicts_the_contract_is_one_line_of_export(
    model: onnx.ModelProto, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    run = imported(tmp_path, model, output_name="answer", **changes)

    with pytest.raises(ContractError, match=words) as raised:
        run_stages(run.path, load_config(run.path), run.path, EXPORT)

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("stride", [2, 3, 5])
def test_an_answer_at_the_contracts_stride_is_taken(stride: int, tmp_path: Path) -> None:
    run = imported(tmp_path, pooled(stride), output_name="answer", output_stride=stride)

    run_stages(run.path, load_config(run.path), run.path, EXPORT)


def test_scores_that_went_through_a_sigmoid_are_no_raw_scores(tmp_path: Path) -> None:
    model = first_channels(1)
    model.graph.node[-1].output[0] = "score"
    model.graph.node.append(helper.make_node("Sigmoid", ["score"], ["answer"], name="last"))

    with pytest.raises(ContractError, match=r"has gone through a Sigmoid.*output_channels = 1"):
        adopted_here(tmp_path, model, output_name="answer", output_kind="sigmoid", **TWO)


@pytest.mark.parametrize("name", ["INT8", "INT16", "UINT16"])
def test_labels_of_small_integers_become_int32(name: str, tmp_path: Path) -> None:
    kind = TensorProto.DataType.Value(name)
    argmax = helper.make_node("ArgMax", ["logits"], ["labels"], name="argmax", axis=1, keepdims=0)
    cast = helper.make_node("Cast", ["labels"], ["answer"], name="cast", to=kind)

    graph = adopted_here(tmp_path, ending(argmax, cast, rank=3, kind=kind), output_name="answer", **LABELS)

    asked = image(1, 3, 16, 24)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (found,) = session.run(["answer"], {"image": asked})
    assert found.dtype == np.int32
    assert np.array_equal(found, of_logits(plain(), asked).argmax(1))


def of_batch(count: int) -> onnx.ModelProto:
    model = plain()
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = count
    return model


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights, input and output all FP16."""
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.elem_type = HALF
    return model


@pytest.mark.parametrize("islands", ["auto", "weights"])
@pytest.mark.parametrize(
    ("model", "changes"),
    [(of_batch(4), {}), (in_half(plain()), {"input_dtype": "float16"})],
    ids=["batch of four", "all FP16"],
)
def test_a_graph_of_fixed_batch_or_in_fp16_throughout_is_exported_and_judged(
    model: onnx.ModelProto, changes: dict[str, Any], islands: str, tmp_path: Path
) -> None:
    run = imported(tmp_path, model, **changes)
    for split in ("val", "train", "test"):
        for folder in ("images", "masks"):
            (run.path / "data" / split / folder).mkdir(parents=True)
        _write_pair(run.path / "data" / split)
    config = load_config(run.path, [f"export.fp32_islands={islands}", "build.targets=[]"])

    done = run_stages(run.path, config, run.path, Selection("export", "validate"))

    agreement = done.record("validate").figures["agreement"]  # of OpenVINO's hops too, where that is installed
    assert agreement["onnx"] == 1.0
    assert agreement["fp16"] == pytest.approx(1.0, abs=0.005)
