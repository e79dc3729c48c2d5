"""Frames much larger than the network: only what a resize reads is touched, on several cores, and no bit changes."""

from functools import partial
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segpipe import testing
from segpipe.contract.schema import Contract, Placement
from segpipe.runtime.backends.host import Networks
from segpipe.runtime.backends.onnxruntime import _Session
from segpipe.runtime.geometry import axes
from segpipe.runtime.postprocess import postprocess
from segpipe.runtime.preprocess import normalisation, preprocess
from segpipe.runtime.sampling import bands_of

NETWORK_SIDES = st.integers(1, 40)
SHRINK = st.one_of(st.floats(0.5, 12), st.integers(1, 12), st.sampled_from([2.8125, 6.4, 4.5]))


def whole_frame(frame: NDArray[Any], contract: Contract, placement: Placement) -> NDArray[Any]:
    """Pre-processing as it was: every pixel through the table (or to float32), one resize of them all."""
    scale, shift = normalisation(contract)
    order = slice(None, None, -1) if contract.channel_order == "bgr" else slice(None)
    (height, width), resizes = placement.resized, placement.resized != frame.shape[:2]
    pixels = np.asarray(frame, np.float32)
    grows = frame.shape[0] * frame.shape[1] < height * width
    first = grows and frame.dtype == np.uint8 and contract.channels <= 4 and contract.input_dtype != "uint8"
    if resizes and first:
        pixels = pixels * scale[order] + shift[order]
    if resizes:
        pixels = np.concatenate(
            [
                cv2.resize(np.ascontiguousarray(pixels[:, :, at : at + 4]), (width, height)).reshape(height, width, -1)
                for at in range(0, contract.channels, 4)
            ],
            2,
        )
    if not (resizes and first):
        pixels = pixels * scale[order] + shift[order]
    if contract.input_dtype == "uint8":
        pixels = np.rint(pixels).clip(0, 255)
    tensor = np.zeros((*placement.canvas, contract.channels), contract.input_dtype)
    top, left = placement.offset
    tensor[top : top + height, left : left + width] = pixels[:, :, order]
    return tensor if contract.input_layout == "nhwc" else tensor.transpose(2, 0, 1)


def frame_of(contract: Contract, height: int, width: int) -> NDArray[Any]:
    rng = np.random.default_rng(height * 4099 + width)
    shape = (height, width, contract.channels)
    if contract.dtype == "float32":
        return rng.uniform(0, 1, shape).astype(np.float32)
    return rng.integers(0, np.iinfo(contract.dtype).max + 1, shape).astype(contract.dtype)


def kind_of(channels: int = 3, **fields: Any) -> Contract:
    statistics = {"mean": (0.3, 0.4, 0.5, 0.2, 0.6, 0.7)[:channels], "std": (0.2, 0.3, 0.25, 0.1, 0.5, 0.4)[:channels]}
    order = "as_is" if channels != 3 else "rgb"
    plain = {"classes": ("a", "b"), "network_size": (32, 40), "channels": channels, "channel_order": order}
    return Contract(**{**plain, **statistics, **fields})


KINDS = [
    kind_of(),
    kind_of(channel_order="bgr", input_layout="nhwc"),
    kind_of(1, input_dtype="float16"),
    *(kind_of(channels) for channels in (2, 4, 5, 6)),
    kind_of(dtype="uint16", value_range=(0, 65535)),
    kind_of(dtype="float32", value_range=(0, 1)),
    kind_of(mean=(0.0,) * 3, std=(1.0,) * 3, value_range=(0, 1), input_dtype="uint8"),
]


@settings(max_examples=300)
@given(
    network=st.tuples(NETWORK_SIDES, NETWORK_SIDES),
    shrink=st.tuples(SHRINK, SHRINK),
    fit=st.sampled_from(["stretch", "letterbox"]),
    kind=st.sampled_from(KINDS),
)
@example(network=(32, 40), shrink=(4, 6.4), fit="stretch", kind=KINDS[0])
@example(network=(32, 40), shrink=(4, 4), fit="stretch", kind=KINDS[0])
@example(network=(16, 10), shrink=(2.8125, 4), fit="stretch", kind=KINDS[0])
def test_tensors_are_those_of_the_whole_frame_bit_for_bit(
    network: tuple[int, int], shrink: tuple[float, float], fit: str, kind: Contract
) -> None:
    contract = kind.model_copy(update={"fit": fit, "network_size": network})
    frame = frame_of(contract, *(max(round(side * times), 1) for side, times in zip(network, shrink, strict=True)))
    placement = contract.place(*frame.shape[:2])

    tensor = preprocess(frame, contract, placement)

    np.testing.assert_array_equal(tensor, whole_frame(frame, contract, placement))


@pytest.mark.parametrize(
    ("frame_size", "network_size"),
    [
        ((1080, 1920), (384, 480)), ((1024, 2048), (256, 320)), ((1024, 2048), (512, 1024)), ((1024, 2048), (256, 512)),
        ((2160, 3840), (384, 480)), ((720, 1280), (512, 1024)), ((600, 800), (384, 480)), ((375, 1242), (128, 416)),
        ((480, 640), (480, 640)), ((100, 100), (480, 640)), ((1080, 1920), (1080, 480)), ((3000, 4000), (224, 224)),
    ],
)  # fmt: skip
def test_large_tensors_are_those_of_the_whole_frame_too(
    frame_size: tuple[int, int], network_size: tuple[int, int]
) -> None:
    contract = kind_of(network_size=network_size)
    frame = frame_of(contract, *frame_size)
    placement = contract.place(*frame_size)

    tensor = preprocess(frame, contract, placement)

    np.testing.assert_array_equal(tensor, whole_frame(frame, contract, placement))


@settings(max_examples=100)
@given(
    labels=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    canvas=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    source=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    fit=st.sampled_from(["stretch", "letterbox"]),
)
def test_label_masks_are_those_of_indexing_every_pixel(
    labels: tuple[int, int], canvas: tuple[int, int], source: tuple[int, int], fit: str
) -> None:
    contract = kind_of(output_kind="labels", network_size=canvas, fit=fit)
    placement, answer = contract.place(*source), np.random.default_rng(0).integers(0, 2, labels)

    mask = postprocess(answer, contract, placement)

    rows, columns = axes(placement, *labels)
    np.testing.assert_array_equal(mask, answer[rows.nearest[:, None], columns.nearest].astype(contract.mask_dtype))


def test_a_call_alone_has_every_core_and_calls_that_meet_have_one_each() -> None:
    networks = Networks(partial(_Session, False), testing.make_onnx(testing.CONTRACT), 2)

    with networks.fitting() as alone, networks.fitting() as met:
        pass

    assert alone is networks.wide
    assert met is not alone


@pytest.mark.skipif(not cv2.ipp.useIPP(), reason="this OpenCV rounds by where a pixel lies: nothing may be left out")
def test_a_frame_much_larger_is_read_in_part_and_in_bands() -> None:
    four, eight = bands_of((1024, 2048), (256, 320), 3), bands_of((2160, 3840), (270, 480), 3)

    assert min(four.count, eight.count) > 1
    assert four.rows is not None
    assert four.rows.size == 512
    assert eight.columns is not None
    assert eight.columns.shape[1] == 960
