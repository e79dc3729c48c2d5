"""A few changes of each kind of file that may come from elsewhere; `make soak` tries many more."""

from pathlib import Path

import pytest

from tests.fuzz_inputs import NAMES, fuzz, reader_of

CASES = {"manifest": 60, "onnx": 30}  # each of a manifest's opens a run, ONNX needs a process
SEED = 0


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of a case that fails
@pytest.mark.parametrize("name", NAMES)
def test_a_changed_file_gives_a_result_or_a_typed_error(name: str, tmp_path: Path) -> None:
    cases = fuzz(reader_of(name, tmp_path), CASES.get(name, 150), SEED)

    print(f"{name}: {cases} cases, seed {SEED}")
