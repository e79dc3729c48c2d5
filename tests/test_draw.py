"""Pictures: exact colours, equal sizes, legible sheets."""

import numpy as np

from segpipe import draw

PALETTE = ((255, 0, 0), (0, 255, 0))


def test_masks_take_their_palette_and_foreign_values_are_grey() -> None:
    picture = draw.colourise(np.array([[0, 1, 255]], np.uint8), PALETTE)

    assert picture.tolist() == [[[255, 0, 0], [0, 255, 0], [128, 128, 128]]]


def test_any_frame_can_be_shown() -> None:
    grey = np.full((2, 2, 1), 32768, np.uint16)
    many = np.full((2, 2, 5), 0.5, np.float32)

    assert draw.displayable(grey, (0, 65535)).tolist() == [[[127] * 3] * 2] * 2
    assert draw.displayable(many, (0, 1)).shape == (2, 2, 3)


def test_overlays_mix_halfway() -> None:
    black = np.zeros((1, 1, 3), np.uint8)

    assert draw.overlay(black, np.zeros((1, 1), np.uint8), PALETTE).tolist() == [[[128, 0, 0]]]


def test_a_sheet_holds_every_picture_and_the_legend() -> None:
    picture = np.full((10, 200, 3), 7, np.uint8)
    legend = draw.legend(("ground", "thing"), PALETTE, 400)
    sheet = draw.contact_sheet([[picture, picture]] * 3, ("left", "right"), legend)

    assert (sheet == 7).all(axis=2).sum() == 6 * 10 * 200
    assert sheet.shape[0] > 30 + legend.shape[0]


def test_a_legend_wraps() -> None:
    names = tuple(f"class number {n}" for n in range(12))

    assert draw.legend(names, PALETTE * 6, 200).shape[0] > draw.legend(names, PALETTE * 6, 2000).shape[0]
