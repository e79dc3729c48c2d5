"""What the gate keeps for the end lies in files, and reads as it was."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from stages.validate.hops.hop import Answered
from stages.validate.hops.kept import WHOLE
from stages.validate.judging.aside import set_aside

MASK = np.zeros((4, 4), np.uint8)


def scores(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, 1, count)).astype(np.float32)


def test_large_scores_set_aside_are_the_same_bytes_and_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = scores(WHOLE + 1)
    before[0, 0, 5] = np.nan
    kept = set_aside(Answered(MASK, before)).scores

    assert isinstance(kept, np.memmap)
    assert kept.tobytes() == before.tobytes()
    assert not [*tmp_path.iterdir()]


def test_small_scores_and_none_stay_where_they_are() -> None:
    small = Answered(MASK, scores(WHOLE))

    assert set_aside(small) is small
    assert set_aside(Answered(MASK, None)).scores is None


def test_without_room_for_a_file_scores_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    whole = scores(WHOLE + 1)

    assert set_aside(Answered(MASK, whole)).scores is whole
