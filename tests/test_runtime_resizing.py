"""Resizes and paddings of other people's pipelines, and one channel of probabilities: as their libraries have them."""

import json
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from segpipe.artifacts import ARTIFACTS
from segpipe.contract.schema import Contract, Resize
from segpipe.errors import BackendError, ContractError
from segpipe.runtime.backends import load_opener
from segpipe.runtime.confidence import confidence, probabilities
from segpipe.runtime.cuda.job import GpuJob, Tensors, TensorSpec
from segpipe.runtime.cuda.kernels import KINDS
from segpipe.runtime.cuda.masks import Masks
from segpipe.runtime.postprocess import postprocess
from segpipe.runtime.preprocess import preprocess
from segpipe.runtime.request import OpenOptions, Outputs
from segpipe.runtime.resizing import resized_as
from segpipe.tasks import task_of
from stages.models import reference
from tests.tiny import contract_fields

FLOAT32_ROUNDING = 1e-3  # of 255: two orders of one antialiased sum
ONE_ULP = 1e-6  # of numbers around 1
SIZES = [(23, 41), (64, 96), (30, 200), (97, 31)]
KINDS_OF_OTHERS: list[Resize] = ["bilinear-8bit", "antialiased", "antialiased-8bit"]
TWO = {"classes": ("ground", "thing"), "output_kind": "probabilities", "output_channels": 1, "output_stride": 1}


def noise(size: tuple[int, int], channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(size[0]).integers(0, 256, (*size, channels), np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_eight_bits_are_rounded_as_opencv_rounds_them(size: tuple[int, int]) -> None:
    frame = noise(size)

    np.testing.assert_array_equal(resized_as("bilinear-8bit", frame, (32, 48)), cv2.resize(frame, (48, 32)))


@pytest.mark.parametrize("size", SIZES)
def test_antialiased_eight_bits_are_pillows(size: tuple[int, int]) -> None:
    frame = noise(size)
    expected = np.asarray(Image.fromarray(frame).resize((48, 32), Image.Resampling.BILINEAR))

    np.testing.assert_array_equal(resized_as("antialiased-8bit", frame, (32, 48)), expected)


@pytest.mark.parametrize("size", SIZES)
def test_antialiased_floats_are_torchvisions(size: tuple[int, int]) -> None:
    frame = noise(size)
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    expected = F.interpolate(pixels, (32, 48), mode="bilinear", antialias=True)[0].permute(1, 2, 0)

    np.testing.assert_allclose(resized_as("antialiased", frame, (32, 48)), expected, atol=FLOAT32_ROUNDING)


@pytest.mark.parametrize("kind", KINDS_OF_OTHERS)
@pytest.mark.parametrize("channels", [1, 5])
def test_every_kind_takes_any_number_of_channels_and_leaves_a_frame_of_that_size_alone(
    kind: Resize, channels: int
) -> None:
    frame = noise((23, 41), channels)
    small = resized_as(kind, frame, (8, 12))

    assert small.shape == (8, 12, channels)
    np.testing.assert_array_equal(small[:, :, -1:], resized_as(kind, frame[:, :, -1:], (8, 12)))
    assert resized_as(kind, frame, (23, 41)) is frame


@pytest.mark.parametrize("kind", KINDS_OF_OTHERS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_the_networks_input_is_the_other_librarys_resize_normalised_and_padded(kind: Resize, layout: str) -> None:
    fields = {"resize": kind, "fit": "letterbox", "padding": 114, "channel_order": "bgr", "input_layout": layout}
    contract, frame = Contract(**contract_fields(**fields)), noise((64, 64))
    placement = contract.place(64, 64)
    canvas = np.full((32, 48, 3), 114, np.float32)
    canvas[:, 8:40] = resized_as(kind, frame, (32, 32))
    expected = (canvas[:, :, ::-1] / 255 - np.array(contract.mean)) / np.array(contract.std)

    found = preprocess(frame, contract, placement)
    defined = reference.preprocess(frame, contract, placement)[0].numpy()

    assert placement.resized == (32, 32)
    np.testing.assert_allclose(found if layout == "nhwc" else found.transpose(1, 2, 0), expected, atol=1e-5)
    np.testing.assert_allclose(found, defined, atol=1e-5)


def test_padding_stays_eight_bits_where_the_network_takes_them() -> None:
    plain = {"mean": (0,) * 3, "std": (1,) * 3, "value_range": (0, 1), "input_dtype": "uint8"}
    contract = Contract(**contract_fields(fit="letterbox", padding=114, **plain))
    tensor = preprocess(noise((32, 32)), contract, contract.place(32, 32))

    assert tensor.dtype == np.uint8
    assert (tensor[:, :, :8] == 114).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"resize": "bilinear-8bit", "dtype": "float32"}, "needs dtype 'uint8'"),
        ({"resize": "bicubic"}, "resize"),
        ({"padding": 114}, "padding is for fit 'letterbox' and 'pad'"),
        ({"output_channels": 1}, "output_channels = 1 is for 'probabilities' of 2 classes"),
        ({**TWO, "classes": ("a", "b", "c")}, "output_channels = 1 is for"),
        ({**TWO, "output_channels": 2}, "output_channels"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ContractError, match=said):
        Contract.from_json(json.dumps(contract_fields(**changes)), "the model")


@pytest.mark.parametrize(
    "changes", [{"padding": 114, "fit": "letterbox"}, {**TWO}, {"resize": "antialiased"}], ids=["bars", "one", "resize"]
)
def test_what_contracts_got_later_is_in_their_json_only_where_it_is_set(changes: dict[str, Any]) -> None:
    plain, changed = Contract(**contract_fields()), Contract(**contract_fields(**changes))

    assert not {"padding", "output_channels"} & set(json.loads(plain.to_json()))
    assert changed.sha256 != plain.sha256
    assert Contract.from_json(changed.to_json(), "it") == changed


@pytest.mark.parametrize("changes", [{"resize": "antialiased-8bit"}, {"fit": "letterbox", "padding": 0}])
@pytest.mark.parametrize("name", ["onnxruntime-cuda", "onnxruntime-cuda-fp16"])
def test_backends_on_gpus_refuse_what_their_kernels_do_not_do(name: str, changes: dict[str, Any]) -> None:
    assert ARTIFACTS[name].needs_gpu
    with pytest.raises(BackendError, match="is done on CPUs only"):
        load_opener(name)(b"", Contract(**contract_fields(**changes)), OpenOptions())


def test_one_channel_of_probabilities_is_decided_by_its_threshold() -> None:
    contract = Contract(**contract_fields(**TWO, threshold=0.25))
    share = np.random.default_rng(0).random((1, 32, 48), np.float32)
    share[0, 0, :3] = 0.25, np.nextafter(np.float32(0.25), np.float32(0)), 0.9
    placement = contract.place(32, 48)

    mask = postprocess(share, contract, placement)
    certain = confidence(share, contract, placement)

    np.testing.assert_array_equal(mask, share[0] >= 0.25)
    np.testing.assert_array_equal(mask, reference.decide(torch.from_numpy(share)[None], contract))
    np.testing.assert_allclose(certain, np.where(mask, share[0], 1 - share[0]), atol=ONE_ULP)
    both = probabilities(share, contract, placement)
    np.testing.assert_allclose(both, np.stack([1 - share[0], share[0]]), atol=ONE_ULP)


def test_the_kernels_decide_one_channel_of_probabilities_and_leave_its_confidence_to_the_host() -> None:
    contract = Contract(**contract_fields(**TWO, threshold=0.25))
    output = {"logits": TensorSpec((1, 1, 32, 48), "float32")}
    tensors = Tensors(TensorSpec((1, 3, 32, 48), "float32"), output)
    jobs = [GpuJob(32, 48, 1, 1, False, Outputs(confidence=asked)) for asked in (False, True)]
    plain, sure = (task_of(contract).on_device(job, contract.place(32, 48), tensors) for job in jobs)

    assert isinstance(plain, Masks)
    arguments = plain.arguments(0)
    assert (arguments.kind, arguments.limit, arguments.channels) == (KINDS["sigmoid"], 0.25, 1)
    assert sure is None
