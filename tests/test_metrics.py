"""Metrics from a confusion matrix, compared with counting by hand."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segpipe.metrics import confusion, scores

MASKS = arrays(np.uint8, (7, 9), elements=st.integers(0, 3))


@given(MASKS, MASKS)
def test_iou_is_intersection_over_union(labels: np.ndarray, mask: np.ndarray) -> None:
    found = scores(confusion(labels, mask, 4)).iou

    for label in range(4):
        union = ((labels == label) | (mask == label)).sum()
        both = ((labels == label) & (mask == label)).sum()
        assert math.isnan(found[label]) if union == 0 else found[label] == both / union


@given(MASKS)
def test_a_perfect_mask_scores_one(labels: np.ndarray) -> None:
    found = scores(confusion(labels, labels, 4))

    assert found.mean_iou == found.pixel_accuracy == 1.0


def test_ignored_pixels_count_nowhere() -> None:
    labels = np.array([[0, 1, 255, 255]], np.uint8)
    mask = np.array([[0, 1, 1, 0]], np.uint8)

    assert confusion(labels, mask, 2).tolist() == [[1, 0, 0], [0, 1, 0]]


@given(MASKS, arrays(np.uint8, (7, 9), elements=st.integers(0, 255)))
def test_an_answer_that_is_no_class_is_wrong_for_every_class(labels: np.ndarray, mask: np.ndarray) -> None:
    found = scores(confusion(labels, mask, 4))

    assert found.pixel_accuracy == (labels == mask).mean()
    for label in range(4):
        union = ((labels == label) | (mask == label)).sum()
        both = ((labels == label) & (mask == label)).sum()
        assert math.isnan(found.iou[label]) if union == 0 else found.iou[label] == both / union


def test_a_class_that_is_nowhere_is_left_out_of_the_mean() -> None:
    labels = np.zeros((2, 2), np.uint8)
    found = scores(confusion(labels, labels, 3))

    assert found.mean_iou == 1.0
    assert np.isnan(found.iou[1:]).all()


def test_means_are_over_the_data_set_not_over_images() -> None:
    small, large = np.ones((1, 1), np.uint8), np.zeros((1, 99), np.uint8)
    matrix = confusion(small, small, 2) + confusion(large, np.ones_like(large), 2)

    assert scores(matrix).pixel_accuracy == 0.01


def test_nothing_counted_is_nan_not_zero() -> None:
    found = scores(np.zeros((2, 3), np.int64))

    assert math.isnan(found.mean_iou)
    assert math.isnan(found.pixel_accuracy)
