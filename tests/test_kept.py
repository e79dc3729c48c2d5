"""What a stored reference keeps of large scores judges as the scores themselves would."""

from pathlib import Path

import numpy as np
import pytest

from segpipe.contract.schema import Contract
from segpipe.rundir.directory import RunDirectory
from segpipe.verdict import STAGE
from stages.measuring.tensors import TensorComparison
from stages.validate.hops import kept as keeping
from stages.validate.hops import stored as storing
from stages.validate.hops.hop import Answered
from stages.validate.hops.kept import Kept
from stages.validate.hops.margins import margins_at
from stages.validate.hops.stored import StoredReference
from stages.validate.judging.adding import add_scores
from tests.calling import call
from tests.planted_table import break_graph

SIZE, LARGE = (90, 120), 0.1
CONTRACT = Contract(classes=("a", "b", "c", "d", "e", "f", "g", "h"), network_size=SIZE, output_stride=1)
RUNG = 0.04  # between two rungs of the ladder


@pytest.fixture
def scores() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(8, *SIZE)).astype(np.float32)


def compared(reference: Answered, candidate: np.ndarray) -> TensorComparison:
    found = TensorComparison()
    add_scores(found, reference, Answered(reference.mask, candidate), "image")
    return found


def both(scores: np.ndarray) -> tuple[Answered, Answered]:
    """With its scores, and with what is kept of them."""
    mask = scores.argmax(0).astype(np.uint8)
    return Answered(mask, scores), Answered(mask, None, Kept.of(scores, SIZE, CONTRACT, LARGE))


def test_a_sample_tells_the_distance_of_the_whole(scores: np.ndarray) -> None:
    noise = np.random.default_rng(1).normal(size=scores.shape).astype(np.float32)
    whole, sampled = (compared(one, scores + 1e-3 * noise) for one in both(scores))

    assert sampled.elements < whole.elements
    assert sampled.worst_relative_l2 == pytest.approx(whole.worst_relative_l2, rel=0.05)


@pytest.mark.parametrize("place", range(3))
def test_nan_and_huge_values_are_seen_where_no_sample_lies(scores: np.ndarray, place: int) -> None:
    _, stored = both(scores)
    broken, huge = scores.copy(), scores.copy()
    broken[1, 5, 7 + place], huge[1, 5, 7 + place] = np.nan, 6e4

    assert compared(stored, broken).nan == 1
    assert compared(stored, huge).candidate_range[1] == np.float32(6e4)


def test_scores_of_another_shape_are_as_wrong_as_can_be(scores: np.ndarray) -> None:
    _, stored = both(scores)

    assert compared(stored, scores[:, ::2]).worst_relative_l2 == np.inf


def test_margins_are_kept_to_four_percent_and_on_their_side_of_a_large_one(scores: np.ndarray) -> None:
    pixels = np.arange(SIZE[0] * SIZE[1])
    exact = margins_at(scores, SIZE, CONTRACT, pixels)
    kept = Kept.of(scores, SIZE, CONTRACT, LARGE).margins_at(pixels, LARGE)
    ours, theirs = (found[exact > 1e-5] for found in (kept, exact))

    assert np.array_equal(kept > LARGE, exact > LARGE)
    assert np.abs(ours / theirs - 1).max() < RUNG


def test_a_machine_without_pytorch_judges_by_a_sample_alike(
    trained_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (keeping, storing):
        monkeypatch.setattr(module, "WHOLE", 100)
    assert call("validate", trained_copy, "--force")[0] == 0
    run = RunDirectory(trained_copy)
    stored = StoredReference(run).index.images

    assert all(image.scores_shape and image.has_scores and image.rounding for image in stored)
    assert len(run.artifact_bytes(STAGE, "reference.npz")) < 100_000
    assert call("validate", trained_copy, "--hop", "onnxruntime-cpu")[0] == 0
    break_graph(trained_copy)
    code, _, err = call("validate", trained_copy, "--hop", "onnxruntime-cpu")
    assert code == 3
    assert "relative_l2" in err
