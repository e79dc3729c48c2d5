"""One graph from frame to mask: the same masks as the runtime's around the same network, for whatever contract."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from segpipe.artifacts import ON_CPU
from segpipe.contract.schema import METADATA_KEY, Contract
from segpipe.errors import ExportError
from segpipe.runtime.backends import load_opener
from segpipe.runtime.request import OpenOptions, Outputs
from stages.graphs.end_to_end import end_to_end
from stages.graphs.lines import sides
from stages.graphs.reading import check
from stages.graphs.sheet import Sheet
from tests.tiny_graphs import weights

CLASSES = ("ground", "thing", "other")
STRIDE = 4
TIES = 1e-3
"""Share of pixels of noise that may differ: two classes within the last bit of each other."""
APART = {"float32": 1e-5, "float16": 1e-3, "uint8": 1e-2}
"""How far confidences may be apart: the last bit of float32 can turn the last bit of a coarser input."""
STRETCHED = {"network_size": (32, 48)}
LETTERBOXED = {"network_size": (32, 48), "fit": "letterbox"}
PADDED: dict[str, Any] = {"fit": "pad", "size_multiple": 8}
CONTRACTS: dict[str, dict[str, Any]] = {
    "stretch": STRETCHED,
    "letterbox": LETTERBOXED,
    "pad": PADDED,
    "bgr": {**LETTERBOXED, "channel_order": "bgr"},
    "one channel": {**PADDED, "channels": 1, "channel_order": "as_is", "mean": (0.4,), "std": (0.2,)},
    "five channels of 16 bits": {
        **LETTERBOXED, "channels": 5, "channel_order": "as_is", "dtype": "uint16", "value_range": (100, 4000),
        "mean": (0.4,) * 5, "std": (0.2,) * 5,
    },
    "float frames": {**STRETCHED, "dtype": "float32", "value_range": (0, 1)},
    "nhwc": {**LETTERBOXED, "input_layout": "nhwc", "output_layout": "nhwc"},
    "half input": {**STRETCHED, "input_dtype": "float16"},
    "whole input": {
        **LETTERBOXED, "input_dtype": "uint8", "mean": (0, 0, 0), "std": (1, 1, 1), "value_range": (0, 1),
    },
    "probabilities": {**STRETCHED, "output_kind": "probabilities"},
    "sigmoid": {**LETTERBOXED, "output_kind": "sigmoid", "classes": ("ground", "thing"), "threshold": 0.3},
    "one probability": {
        **STRETCHED, "output_kind": "probabilities", "output_channels": 1, "classes": ("ground", "thing"),
        "threshold": 0.4,
    },
    "grey bars": {**LETTERBOXED, "padding": 114.0, "channel_order": "bgr"},
    "bars of pixels": {
        **PADDED, "input_dtype": "uint8", "mean": (0, 0, 0), "std": (1, 1, 1), "value_range": (0, 1), "padding": 7,
    },
    "labels": {**LETTERBOXED, "output_kind": "labels"},
    "labels of 16 bits": {**PADDED, "output_kind": "labels", "ignore_index": 999, "output_layout": "nhwc"},
}  # fmt: skip
SIZES = ((32, 48), (75, 41), (20, 90), (1, 1), (64, 96))


def contract_of(name: str) -> Contract:
    return Contract(**{"classes": CLASSES, "output_stride": STRIDE, **CONTRACTS[name]})


def network(contract: Contract, opset: int = 18) -> onnx.ModelProto:
    """A convolution that answers as the contract says. Its tensors have the names that the outer graph's have."""
    nodes = [helper.make_node("Cast", [contract.input_name], ["frame"], to=TensorProto.FLOAT)]
    if contract.input_layout == "nhwc":
        nodes.append(helper.make_node("Transpose", ["frame"], ["planes"], perm=[0, 3, 1, 2]))
    planes = nodes[-1].output[0]
    classes = len(contract.classes) if contract.output_kind == "labels" else contract.score_channels
    nodes.append(helper.make_node("Conv", [planes, "weight"], ["mask"], kernel_shape=[4, 4], strides=[4, 4]))
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "logits": ("Identity", {}), "sigmoid": ("Identity", {}), "probabilities": ("Softmax", {"axis": 1}),
        "labels": ("ArgMax", {"axis": 1}),
    }  # fmt: skip
    if contract.output_channels == 1:
        kinds["probabilities"] = ("Sigmoid", {})
    operator, attributes = kinds[contract.output_kind]
    nodes.append(helper.make_node(operator, ["mask"], ["decided"], **attributes))
    last = ("Transpose", {"perm": [0, 2, 3, 1]}) if contract.output_layout == "nhwc" else ("Identity", {})
    nodes.append(helper.make_node(last[0], ["decided"], [contract.output_name], **last[1]))  # type: ignore[arg-type]
    height, width = contract.network_size or ("height", "width")
    shape: list[str | int] = ["batch", contract.channels, height, width]
    given_shape = shape if contract.input_layout == "nchw" else [shape[0], *shape[2:], shape[1]]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(contract.input_dtype))
    answer = TensorProto.INT64 if contract.output_kind == "labels" else TensorProto.FLOAT
    scores: list[str | int] = ["batch", contract.score_channels, "h", "w"]
    answered = scores if contract.output_layout == "nchw" else [scores[0], *scores[2:], scores[1]]
    scale = 0.01 if contract.input_dtype == "uint8" else 0.3
    graph = helper.make_graph(
        nodes, "one", [helper.make_tensor_value_info(contract.input_name, kind, given_shape)],
        [helper.make_tensor_value_info(contract.output_name, answer, answered)],
        [weights("weight", classes, contract.channels, 4, 4, scale=scale)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    return model


def frames_of(contract: Contract, height: int, width: int, count: int = 2) -> NDArray[Any]:
    """Noise of the contract's type."""
    rng = np.random.default_rng(height * 1000 + width)
    low, high = (0, 255) if contract.input_dtype == "uint8" else contract.value_range
    values = low + rng.random((count, height, width, contract.channels)) * (high - low)
    return values.astype(contract.dtype)


def opened(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_masks_and_confidences_are_the_runtimes(name: str) -> None:
    contract = contract_of(name)
    inner = network(contract)
    whole = end_to_end(inner, contract, confidence=True)
    check(whole, "the end-to-end graph")
    session, has_scores = opened(whole), contract.output_kind != "labels"
    runtime = load_opener(ON_CPU.name)(inner.SerializeToString(), contract, OpenOptions())

    for size in SIZES:
        frames = frames_of(contract, *size)
        found = session.run(None, {"frame": frames})
        expected = runtime.infer([*frames], Outputs(confidence=has_scores))

        masks = np.stack([answer.mask for answer in expected])
        assert (found[0].dtype, found[0].shape) == (masks.dtype, masks.shape)
        assert (found[0] != masks).mean() <= TIES, size
        if has_scores:
            sure = np.stack([answer.confidence for answer in expected])
            np.testing.assert_allclose(found[1], sure, rtol=0, atol=APART[contract.input_dtype])
    assert len(session.get_outputs()) == 1 + has_scores


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), network_height=st.sampled_from((1, 7, 100, 512, 699)))
def test_a_letterbox_is_placed_as_python_rounds(height: int, width: int, network_height: int) -> None:
    contract = Contract(classes=CLASSES, fit="letterbox", network_size=(network_height, 513))
    placement = contract.place(height, width)

    assert placed(contract, height, width) == [*placement.resized, *placement.offset]


def test_half_a_row_is_rounded_to_even_in_doubles() -> None:
    contract = Contract(classes=CLASSES, fit="letterbox", network_size=(100, 5000))
    sizes = [(600, width) for width in range(3, 4000, 6)]

    assert [placed(contract, *size) for size in sizes] == [
        [*contract.place(*size).resized, *contract.place(*size).offset] for size in sizes
    ]


_PLACING: dict[str, onnxruntime.InferenceSession] = {}


def placed(contract: Contract, height: int, width: int) -> list[int]:
    """Resized height and width and the offsets, as the graph computes them from a frame's shape."""
    if contract.sha256 not in _PLACING:
        sheet = Sheet()
        rows, columns = sides(sheet, contract, "frame")
        parts = (rows.resized, columns.resized, rows.offset, columns.offset)
        names = [sheet.cast(part, TensorProto.INT64) for part in parts]
        outputs = [helper.make_tensor_value_info(name, TensorProto.INT64, []) for name in names]
        frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, ["n", "h", "w", "c"])
        graph = helper.make_graph(sheet.nodes, "placing", [frame], outputs, sheet.constants)
        imports = [helper.make_opsetid("", 18)]
        _PLACING[contract.sha256] = opened(helper.make_model(graph, opset_imports=imports, ir_version=8))
    nothing = np.empty((0, height, width, 3), np.uint8)
    return [int(value) for value in _PLACING[contract.sha256].run(None, {"frame": nothing})]


def test_it_carries_the_contract_and_the_fixed_batch_of_its_network() -> None:
    contract = contract_of("stretch")
    inner = network(contract)
    for value in (*inner.graph.input, *inner.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2

    whole = end_to_end(inner, contract, confidence=False)

    assert Contract.from_metadata({p.key: p.value for p in whole.metadata_props}, "it") == contract
    assert opened(whole).get_inputs()[0].shape == [2, "height", "width", 3]
    assert [value.name for value in whole.graph.output] == ["mask"]


@pytest.mark.parametrize("opset", [13, 17])
def test_older_operators_do(opset: int) -> None:
    contract = contract_of("letterbox")
    whole = end_to_end(network(contract, opset), contract, confidence=True)

    check(whole, "the end-to-end graph")
    assert opened(whole).run(None, {"frame": frames_of(contract, 9, 7)})[0].shape == (2, 9, 7)


def test_another_resize_is_refused() -> None:
    contract = Contract(classes=CLASSES, network_size=(32, 48), resize="antialiased-8bit")

    with pytest.raises(ExportError, match="resizes by 'half-pixel-bilinear', the contract says 'antialiased-8bit'"):
        end_to_end(network(contract), contract, confidence=False)


def test_every_field_of_the_contract_was_thought_of() -> None:
    written = {
        "channels", "channel_order", "dtype", "value_range", "mean", "std", "fit", "network_size", "size_multiple",
        "padding", "input_layout", "input_dtype", "output_layout", "output_kind", "output_channels", "threshold",
    }  # fmt: skip
    refused, no_numbers = {"resize"}, {"version", "classes", "ignore_index", "input_name", "output_name", "unscored"}
    by_shape = {"output_stride"}

    assert set(Contract.model_fields) == written | refused | no_numbers | by_shape


def test_an_opset_that_lacks_the_operators_is_refused() -> None:
    contract = contract_of("stretch")

    with pytest.raises(ExportError, match="needs opset 13 or later, the network has 12"):
        end_to_end(network(contract, 12), contract, confidence=False)
