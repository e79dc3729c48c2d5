"""Independent opinions: scikit-learn's confusion matrix and Polygraphy's comparator on the same arrays."""

import numpy as np
import pytest

from stages.measuring.masks import MaskComparison, MaskShape, Truth
from stages.measuring.tensors import TensorComparison

SUMMATION = 1e-5  # Polygraphy sums in float32


def test_ious_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    labels, reference = rng.integers(0, 5, (2, 40, 50), np.uint8)
    candidate = np.where(rng.random(labels.shape) < 0.1, rng.integers(0, 5, labels.shape), reference).astype(np.uint8)
    shape = MaskShape(classes=5, boundary_px=3)
    comparison = MaskComparison(shape)
    comparison.add(Truth.of(reference, labels, lambda at: np.zeros(at.size), shape), candidate)

    flat = labels.ravel()
    expected = [metrics.jaccard_score(flat, mask.ravel(), average=None) for mask in (reference, candidate)]
    pairs = metrics.confusion_matrix(reference.ravel(), candidate.ravel())
    np.fill_diagonal(pairs, 0)

    assert np.allclose(comparison.ious(), expected, rtol=1e-12)
    assert np.array_equal(comparison.pairs[:5, :5], pairs)
    assert 1 - comparison.flips / comparison.pixels == metrics.accuracy_score(reference.ravel(), candidate.ravel())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_tensor_errors_agree_with_polygraphy() -> None:
    comparator = pytest.importorskip("polygraphy.comparator")
    rng = np.random.default_rng(4)
    ours = rng.normal(size=(3, 16, 16)).astype(np.float32)
    theirs = ours + (rng.normal(size=ours.shape) * 1e-2).astype(np.float32)
    mine = TensorComparison()
    mine.add(ours, theirs)

    results = [comparator.IterationResult({"logits": array}) for array in (theirs, ours)]
    loose = comparator.CompareFunc.simple(atol=1, rtol=1, check_error_stat="max")(*results)["logits"]
    mean = comparator.CompareFunc.simple(atol=1, rtol=1, check_error_stat="mean")(*results)["logits"]

    assert mine.max_abs_error == pytest.approx(loose.max_absdiff, rel=SUMMATION)
    assert mine.mean_abs_error == pytest.approx(mean.mean_absdiff, rel=SUMMATION)
