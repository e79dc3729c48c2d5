"""The examples run: programs as a shell would start them, notebooks cell by cell."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from segpipe import Segmenter, testing
from tests.children import PATIENCE_S

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


@pytest.fixture
def notebook_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a notebook to run in, with our own command line and nothing of the user's settings."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    return tmp_path


def ran(path: Path, place: Path) -> Any:
    """The notebook with its outputs."""
    book = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(book, timeout=PATIENCE_S, resources={"metadata": {"path": str(place)}}).execute()
    return book


def text_of(book: Any) -> str:
    """All that its cells print and show as text."""
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.mark.filterwarnings("default")  # of jupyter's packages
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom_and_prints_no_escape_codes(
    path: Path, notebook_place: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if path.stem == "gate_report":
        monkeypatch.setenv("SEGPIPE_RUN", str(request.getfixturevalue("trained_run")))

    text = text_of(ran(path, notebook_place))

    assert WANTED[path.stem] in text
    assert "\x1b" not in text


WANTED = {
    "first_mask": "1/1",
    "own_data": "1 fault in the data",
    "gate_report": "flips_inside",
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]

    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


def test_the_first_mask_is_the_runtimes(tmp_path: Path) -> None:
    run = testing.make_run(tmp_path / "run")
    frame, _ = testing.make_frame(48, 64)
    cv2.imwrite(str(tmp_path / "frame.png"), frame[:, :, ::-1])
    words = [EXAMPLES / "first_mask.py", run, tmp_path / "frame.png", tmp_path / "mask.png"]

    ended = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )

    with Segmenter.open(run) as segmenter:
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / "mask.png"), -1), segmenter(frame))
    assert ended.stdout.count("%") == len(testing.PALETTE)
