"""Augmentation: image and labels stay together, what is new is ignored, and numbers come from the seed alone."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segpipe.contract.schema import Contract
from segpipe.runtime.preprocess import preprocess
from stages.config.root import AugmentConfig
from stages.train.augment import Augmentation, augment, shown

STILL: dict[str, Any] = {
    "scale_range": (1.0, 1.0),
    "flip": False,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
}
IGNORE = 255


def contract_for(channels: int = 3, size: tuple[int, int] = (64, 96), **changes: Any) -> Contract:
    """Frames of one byte a channel."""
    order = changes.pop("channel_order", "rgb" if channels == 3 else "as_is")
    values = {"mean": (0.4,) * channels, "std": (0.2,) * channels}
    fields = {"channels": channels, "channel_order": order, "network_size": size, "classes": ("a", "b"), **values}
    return Contract(**(fields | changes))


def how(crop: tuple[int, int] = (64, 96), **config: Any) -> Augmentation:
    """Nothing at random, except what is named."""
    return Augmentation(crop, AugmentConfig(**(STILL | config)))


def frame_of(channels: int, size: tuple[int, int] = (64, 96)) -> np.ndarray[Any, Any]:
    """Smooth noise."""
    rng = np.random.default_rng(3)
    noise = cv2.resize(rng.integers(0, 256, (8, 8, channels)).astype(np.float32), size[::-1])
    return noise.reshape(*size, channels).astype(np.uint8)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("source", [(64, 96), (32, 40), (100, 70)])
def test_without_randomness_it_is_the_contracts_preprocessing(source: tuple[int, int], order: str) -> None:
    """OpenCV's warp of bytes rounds positions to 1/32 pixel and values to whole numbers."""
    contract = contract_for(channel_order=order)
    frame = frame_of(3, source)
    tensor, _ = augment(frame, np.zeros(source, np.uint8), contract, how(), np.random.default_rng(0))
    wanted = preprocess(frame, contract, contract.place(*source))

    inner = (slice(None), slice(2, -2), slice(2, -2))  # outside the frame the warp blends with the mean
    assert np.abs(tensor - wanted)[inner].max() * 0.2 * 255 < 6.0
    assert np.abs(tensor - wanted)[inner].mean() * 0.2 * 255 < 0.6


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), channels=st.sampled_from([1, 3, 5]), turn=st.sampled_from([0.0, 30.0, 180.0]))
def test_labels_move_with_the_image_and_new_pixels_are_ignored(seed: int, channels: int, turn: float) -> None:
    """The frame shows its own labels, so every crop must too: bright where the label is 1."""
    labels = np.zeros((80, 120), np.uint8)
    labels[20:50, 30:90] = 1
    frame = np.repeat(labels[:, :, None] * 200, channels, axis=2)
    contract = contract_for(channels, mean=(0.1,) * channels)
    config = how(scale_range=(0.5, 2.0), flip=True, flip_vertical=True, rotation_degrees=turn)
    tensor, mask = augment(frame, labels, contract, config, np.random.default_rng(seed))
    pixels = shown(tensor, contract)

    assert set(np.unique(mask)) <= {0, 1, IGNORE}
    for label, near in ((1, 200), (0, 0)):
        inside = cv2.erode((mask == label).astype(np.uint8), np.ones((11, 11)), borderValue=0) > 0
        assert np.abs(pixels[inside] - near).max(initial=0) < 3
    outside = cv2.erode((mask == IGNORE).astype(np.uint8), np.ones((11, 11)), borderValue=0) > 0
    assert np.abs(pixels[outside] - 25.5).max(initial=0) < 3


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_the_same_seed_gives_the_same_crop_and_another_another(channels: int) -> None:
    contract, labels = contract_for(channels), np.zeros((64, 96), np.uint8)
    config = how(flip=True, scale_range=(0.5, 2.0), brightness=0.3, hue=20.0, blur=0.5, erase=0.5)
    first, again, other = (
        augment(frame_of(channels), labels, contract, config, np.random.default_rng((1, 2, seed)))[0]
        for seed in (5, 5, 6)
    )

    assert first.dtype == np.float32
    assert first.shape == (channels, 64, 96)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_shrinking_blurs_first_so_that_checks_become_grey() -> None:
    """Sampled without a blur, a fine checkerboard would stay black and white."""
    checks = np.indices((128, 192)).sum(0)[:, :, None] % 2 * np.full(3, 255)
    contract = contract_for(size=(128, 192))
    tensor, mask = augment(
        checks.astype(np.uint8),
        np.zeros((128, 192), np.uint8),
        contract,
        how((64, 96), scale_range=(0.4, 0.4)),
        np.random.default_rng(0),
    )
    inside = cv2.erode((mask == 0).astype(np.uint8), np.ones((9, 9)), borderValue=0) > 0

    assert shown(tensor, contract)[inside].std() < 25


def test_colours_change_by_one_matrix_and_stay_in_range() -> None:
    contract = contract_for()
    frame = np.full((64, 96, 3), (250, 120, 10), np.uint8)
    config = how(brightness=1.0, contrast=1.0, saturation=1.0, hue=180.0)
    seen = [
        shown(augment(frame, np.zeros((64, 96), np.uint8), contract, config, np.random.default_rng(s))[0], contract)
        for s in range(20)
    ]

    assert min(image.min() for image in seen) >= -0.01
    assert max(image.max() for image in seen) <= 255.01
    assert np.std([image[32, 48] for image in seen], axis=0).min() > 20


def test_erased_rectangles_are_ignored() -> None:
    labels = np.zeros((64, 96), np.uint8)
    _, mask = augment(frame_of(3), labels, contract_for(), how(erase=1.0), np.random.default_rng(1))

    assert 0.01 < (mask == IGNORE).mean() < 0.2


def test_sixteen_bit_frames_keep_their_depth() -> None:
    """Values that differ by less than one 8-bit step stay apart."""
    contract = contract_for(1, dtype="uint16", value_range=(0, 65535))
    frame = np.tile(np.arange(30000, 30096, dtype=np.uint16), (64, 1))[:, :, None]
    tensor, _ = augment(frame, np.zeros((64, 96), np.uint8), contract, how(), np.random.default_rng(0))

    assert np.allclose(shown(tensor, contract)[:, :, 0], frame[:, :, 0], atol=1.0)


def test_a_crop_beyond_the_frame_is_ignored_there() -> None:
    _, mask = augment(
        frame_of(3, (32, 48)),
        np.zeros((32, 48), np.uint8),
        contract_for(size=(32, 64), fit="letterbox"),
        how((64, 96)),
        np.random.default_rng(0),
    )

    assert (mask == 0).sum() == 32 * 48
    assert (mask == IGNORE).sum() == 64 * 96 - 32 * 48
