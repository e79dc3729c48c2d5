"""ONNX bytes that the runtime refuses at open: weights from elsewhere, and whatever the libraries cannot load."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from segpipe import testing
from segpipe.contract.schema import METADATA_KEY, Contract
from segpipe.errors import BackendError, SegpipeError
from segpipe.runtime.backends import load_opener
from segpipe.runtime.backends.onnxruntime_cuda import OrtEngine
from segpipe.runtime.request import OpenOptions
from tests.cpu_rows import PLAIN, opens_here
from tests.tiny_graphs import constant, plain, weights

CONTRACT = Contract(classes=tuple("abcd"), network_size=(16, 24))
FILE = "weights.bin"


def open_on_cpu(name: str, artifact: bytes) -> object:
    return load_opener(name)(artifact, CONTRACT, OpenOptions(threads=1))


def open_as_on_gpu(artifact: bytes) -> object:
    return OrtEngine(artifact, CONTRACT, "cpu", 0)


OPENERS: dict[str, Callable[[bytes], object]] = {
    "cuda": open_as_on_gpu,
    **{row.name: partial(open_on_cpu, row.name) for row in PLAIN if opens_here(row)},
}
every_opener = pytest.mark.parametrize("opened", OPENERS.values(), ids=OPENERS.keys())


def with_contract(model: onnx.ModelProto) -> bytes:
    helper.set_model_props(model, {METADATA_KEY: CONTRACT.to_json()})
    return model.SerializeToString()


def external(tensor: TensorProto, folder: Path) -> TensorProto:
    """The tensor with its values in a file of `folder`."""
    (folder / FILE).write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=FILE)
    return tensor


def with_initializer(tensor: TensorProto) -> onnx.ModelProto:
    model = plain()
    model.graph.initializer.append(tensor)
    return model


def with_constant(tensor: TensorProto) -> onnx.ModelProto:
    model = plain()
    model.graph.node.append(helper.make_node("Constant", [], ["k"], value=tensor))
    return model


def with_subgraph(tensor: TensorProto) -> onnx.ModelProto:
    """Two levels down: the branch of an If in the branch of an If."""
    inner = helper.make_graph([helper.make_node("Identity", ["hidden"], ["in"])], "inner", [], [], [tensor])
    inner.output.append(helper.make_tensor_value_info("in", TensorProto.FLOAT, None))
    outer = helper.make_graph(
        [helper.make_node("If", ["yes"], ["out"], then_branch=inner, else_branch=inner)], "outer", [], [inner.output[0]]
    )
    outer.output[0].name = "out"
    model = plain()
    model.graph.initializer.append(constant("yes", True, np.bool_))
    model.graph.node.append(helper.make_node("If", ["yes"], ["k"], then_branch=outer, else_branch=outer))
    return model


def with_function(tensor: TensorProto) -> onnx.ModelProto:
    model = plain()
    node = helper.make_node("Constant", [], ["k"], value=tensor)
    opset = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("own", "Weights", [], ["k"], [node], opset))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node("Weights", [], ["k"], domain="own"))
    return model


def with_function_default(tensor: TensorProto) -> onnx.ModelProto:
    model = with_function(constant("hidden", 1.0))
    model.functions[0].attribute_proto.append(helper.make_attribute("value", tensor))
    return model


def with_sparse_values(tensor: TensorProto) -> onnx.ModelProto:
    model = plain()
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, constant("at", [0, 1], np.int64), [8]))
    return model


def with_sparse_indices(tensor: TensorProto) -> onnx.ModelProto:
    model = plain()
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(constant("values", [1, 2]), tensor, [8]))
    return model


def with_sparse_constant(tensor: TensorProto) -> onnx.ModelProto:
    model = plain()
    sparse = helper.make_sparse_tensor(tensor, constant("at", [0, 1], np.int64), [8])
    model.graph.node.append(helper.make_node("Constant", [], ["k"], sparse_value=sparse))
    return model


def with_list_attribute(tensor: TensorProto) -> onnx.ModelProto:
    model = plain()
    model.graph.node.append(helper.make_node("Anything", [], ["k"], domain="own", tensors=[tensor]))
    return model


def with_training_info(tensor: TensorProto) -> onnx.ModelProto:
    model = plain()
    model.training_info.add().initialization.initializer.append(tensor)
    return model


PLACES = [
    with_initializer, with_constant, with_subgraph, with_function, with_function_default, with_sparse_values,
    with_sparse_indices, with_sparse_constant, with_list_attribute, with_training_info,
]  # fmt: skip


@every_opener
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_weights_in_another_file_are_refused_wherever_they_hang(
    opened: Callable[[bytes], object],
    place: Callable[[TensorProto], onnx.ModelProto],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # where ONNX Runtime looks
    artifact = with_contract(place(external(constant("hidden", [1.0, 2.0]), tmp_path)))

    with pytest.raises(BackendError, match=r"tensor 'hidden' .* another file"):
        opened(artifact)


@every_opener
def test_a_location_that_is_taken_back_later_is_refused_too(opened: Callable[[bytes], object], tmp_path: Path) -> None:
    """Protocol buffers merge what comes twice; nobody writes that without a purpose."""
    hidden = external(constant("hidden", [1.0, 2.0]), tmp_path).SerializeToString() + b"\x70\x00"
    tensor = b"\x2a" + bytes([len(hidden)]) + hidden
    artifact = with_contract(plain()) + b"\x3a" + bytes([len(tensor)]) + tensor

    with pytest.raises(BackendError, match="another file"):
        opened(artifact)


@every_opener
def test_the_format_that_is_no_onnx_is_refused(opened: Callable[[bytes], object], tmp_path: Path) -> None:
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "model.ort")
    settings.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(with_contract(plain()), settings, providers=["CPUExecutionProvider"])

    with pytest.raises(BackendError, match="cannot load"):
        opened((tmp_path / "model.ort").read_bytes())


@every_opener
@pytest.mark.parametrize("artifact", [b"", b"\x08\x08", b"x" * 100, b"\x3a\xff\xff\xff\xff\x7f", b"\xff" * 20])
def test_bytes_without_a_graph_are_one_line(opened: Callable[[bytes], object], artifact: bytes) -> None:
    with pytest.raises(BackendError) as caught:
        opened(artifact)

    assert "\n" not in str(caught.value)


@every_opener
def test_text_that_is_not_utf8_is_one_line(
    opened: Callable[[bytes], object], capfd: pytest.CaptureFixture[str]
) -> None:
    names, metadata = with_contract(plain()), with_contract(plain())

    for artifact in (names.replace(b"logits", b"l\xd6gits"), metadata.replace(b"contract", b"c\xd6ntract")):
        with pytest.raises(SegpipeError) as caught:
            opened(artifact)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""


MODEL = with_contract(plain())
EDGE = 400  # bytes at each end hold the structure; between them are weights


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])  # capfd only reads
@given(
    changes=st.dictionaries(
        st.one_of(st.integers(0, EDGE), st.integers(len(MODEL) - EDGE, len(MODEL) - 1)),
        st.integers(0, 255),
        min_size=1,
        max_size=4,
    )
)
def test_changed_bytes_open_or_are_a_known_error(changes: dict[int, int], capfd: pytest.CaptureFixture[str]) -> None:
    artifact = bytearray(MODEL)
    for at, value in changes.items():
        artifact[at] = value

    with suppress(SegpipeError):
        for opened in OPENERS.values():  # ONNX Runtime first: on graphs that it refuses, OpenVINO may end the process
            opened(bytes(artifact))
    assert capfd.readouterr().out == ""


@every_opener
def test_weights_inside_the_file_are_taken(opened: Callable[[bytes], object]) -> None:
    telling = weights("telling", 64)
    telling.raw_data = b"location\x70\x01" + telling.raw_data[10:]

    opened(with_contract(with_initializer(telling)))
    opened(with_contract(with_subgraph(constant("hidden", [1.0, 2.0]))))
    open_tiny = load_opener("onnxruntime-cpu")
    open_tiny(testing.make_onnx(testing.CONTRACT), testing.CONTRACT, OpenOptions()).close()
