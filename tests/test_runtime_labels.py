"""Networks that answer labels instead of scores: their layouts, their wrong answers, and how they are counted."""

import logging
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from segpipe.contract.schema import METADATA_KEY, Contract, Placement
from segpipe.errors import BackendError
from segpipe.evaluate import evaluate_frames
from segpipe.runtime.backends import load_opener
from segpipe.runtime.postprocess import postprocess
from segpipe.runtime.request import OpenOptions
from segpipe.runtime.segmenter import Segmenter
from tests.tiny_graphs import constant, graph

SIDES = st.integers(1, 6)
LAYOUTS = st.sampled_from(["nchw", "nhwc"])
SIZE = (16, 24)


def contract_of(**fields: Any) -> Contract:
    return Contract(**{"classes": tuple("abc"), "output_kind": "labels", "network_size": SIZE, **fields})


def as_is(height: int, width: int) -> Placement:
    """A frame as large as the labels."""
    return Placement((height, width), (height, width), (height, width), (0, 0))


def some_labels(height: int, width: int) -> NDArray[Any]:
    return np.random.default_rng(height * 7 + width).integers(0, 3, (height, width))


@given(SIDES, SIDES, LAYOUTS, st.sampled_from([None, "contract's", "other"]))
def test_labels_keep_their_sides_in_every_layout(height: int, width: int, layout: str, channel: str | None) -> None:
    labels, own = some_labels(height, width), 2 if layout == "nhwc" else 0
    axis = {"contract's": own, "other": 2 - own}.get(channel or "")
    answer = labels if axis is None else np.expand_dims(labels, axis)
    if channel == "other" and 1 in {answer.shape[own]}:
        return  # the contract's layout says which of the two is the channel

    mask = postprocess(answer, contract_of(output_layout=layout), as_is(height, width))

    np.testing.assert_array_equal(mask, labels)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("shape", [(5,), (), (2, 4, 5), (4, 2, 5), (1, 1, 4, 5)])
def test_an_answer_that_is_no_picture_of_labels_is_refused(shape: tuple[int, ...], layout: str) -> None:
    with pytest.raises(BackendError, match="labels"):
        postprocess(np.zeros(shape, np.int64), contract_of(output_layout=layout), as_is(4, 5))


@pytest.mark.parametrize(
    ("dtype", "ignore", "wrong"),
    [
        (np.int64, 255, [-200, -1, 256, 258, 2**40]),
        (np.int32, 255, [-(2**31), 256, 2**31 - 1]),
        (np.int64, 65535, [-1, 65536, 65538]),
        (np.int8, 255, [-1, -128, 127]),
        (np.float32, 255, [-3.0, 256.0, np.inf, np.nan]),
    ],
)
def test_a_number_that_a_mask_cannot_hold_becomes_no_class(dtype: Any, ignore: int, wrong: list[Any]) -> None:
    contract = contract_of(ignore_index=ignore)

    mask = postprocess(np.array([[0, 2, *wrong]], dtype), contract, as_is(1, 2 + len(wrong)))

    assert mask.dtype == contract.mask_dtype
    assert mask[0, :2].tolist() == [0, 2]
    assert mask[0, 2:].min() >= len(contract.classes)


def label_network(offset: int, contract: Contract, name: str = "onnxruntime-cpu") -> Segmenter:
    """The brightest channel's number, and `offset` to it."""
    model = graph(
        [
            helper.make_node("ArgMax", ["image"], ["brightest"], axis=1, keepdims=0),
            helper.make_node("Add", ["brightest", "offset"], ["logits"]),
        ],
        [constant("offset", offset, np.int64)],
        (1, 3, *SIZE),
        [("logits", TensorProto.INT64, (1, *SIZE))],
    )
    onnx.helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    backend = load_opener(name)(model.SerializeToString(), contract, OpenOptions(threads=1))
    return Segmenter(backend, contract, [(0, 0, 0)] * 3)


def sample() -> tuple[NDArray[Any], NDArray[Any]]:
    frame = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    return frame, frame.argmax(2).astype(np.uint8)


def test_a_class_beyond_the_contract_counts_as_wrong_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    frame, labels = sample()
    labels[0] = 255

    with label_network(1, contract_of(**plain)) as segmenter, caplog.at_level(logging.WARNING):
        figures = evaluate_frames(segmenter, [(frame, labels)], lambda _: None)

    beyond = int((labels == 2).sum())
    assert figures.no_class_pixels == figures.as_dict()["no_class_pixels"] == beyond > 0
    assert figures.scores.recall[2] == 0
    assert f"{beyond} of {labels[1:].size} labelled pixels" in caplog.text


def test_classes_of_the_contract_are_counted_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3}

    with label_network(0, contract_of(**plain)) as segmenter, caplog.at_level(logging.WARNING):
        figures = evaluate_frames(segmenter, [sample()], lambda _: None)

    assert figures.scores.mean_iou == 1.0
    assert figures.no_class_pixels == 0
    assert not caplog.records
