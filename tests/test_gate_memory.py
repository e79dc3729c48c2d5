"""What the gate keeps for the end lies in files, and reads as it was."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from segpipe.contract.schema import Contract
from stages.config.root import ValidateConfig
from stages.validate.hops.hop import Answered
from stages.validate.hops.inputs import Image
from stages.validate.hops.kept import WHOLE
from stages.validate.hops.stored import Keeper
from stages.validate.judging.aside import set_aside
from stages.validate.judging.judge import Setup
from tests.tiny import contract_fields

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


def stored_files() -> dict[str, bytes]:
    """Of an image that is too large to stay in memory."""
    rng, contract = np.random.default_rng(0), Contract(**contract_fields())
    frame, labels = rng.integers(0, 256, (300, 300, 3), np.uint8), rng.integers(0, 2, (300, 300), np.uint8)
    keeper = Keeper(1, contract, 0.1)
    keeper.add(Image("large", frame, labels), Answered(labels[::-1], None))
    return keeper.files("it", Setup(contract, ValidateConfig()))


def test_the_stored_reference_is_the_same_bytes_whether_it_waited_in_files_or_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_files = stored_files()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))

    assert from_files == stored_files()
