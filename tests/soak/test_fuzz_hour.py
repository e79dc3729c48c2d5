"""Changed files of every kind, for an hour: the counts and seeds are printed (`pytest -rP` shows them)."""

import os
import time
from pathlib import Path

import pytest

from tests.fuzz_inputs import NAMES, fuzz, reader_of

SECONDS = float(os.environ.get("SEGPIPE_FUZZ_SECONDS", "3600")) / len(NAMES)
CASES_A_SEED = 1000


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of a case that fails
@pytest.mark.parametrize("name", NAMES)
def test_no_change_of_a_file_gives_anything_but_a_result_or_a_typed_error(name: str, tmp_path: Path) -> None:
    reader, number, cases = reader_of(name, tmp_path), int(time.time()), 0
    first, end = number, time.monotonic() + SECONDS
    while time.monotonic() < end:
        cases += fuzz(reader, CASES_A_SEED, number)
        number += 1

    print(f"{name}: {cases} cases, seeds {first} to {number - 1}")
