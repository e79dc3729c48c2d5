"""What is read together is of one state of the run, whatever another process commits meanwhile."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from segpipe.errors import ArtifactDamagedError
from segpipe.rundir.directory import RunDirectory
from tests.test_rundir import make

ROOT = Path(__file__).parents[1]

OPENED_BESIDE_A_COMMIT = """
    import sys
    from pathlib import Path
    from segpipe import Segmenter, testing
    from segpipe.rundir.directory import RunDirectory

    OLD = testing.CONTRACT
    NEW = OLD.model_copy(update={"classes": ("night", "stop", "go", "sky", "dusk")})
    GREY = tuple((level, level, level) for level in (0, 64, 128, 191, 255))
    place, awaited = None, ""

    def commit_before(event, arguments):
        "Another process commits just before this one opens the awaited file."
        global awaited
        if event == "open" and awaited and str(arguments[0]).endswith(awaited):
            awaited = ""
            testing.make_run(place, NEW)

    sys.addaudithook(commit_before)
    for file in ("contract.json", "palette.json", "model.onnx", "verdicts.json"):
        place = testing.make_run(Path(sys.argv[1]) / file, OLD)
        awaited = file
        with Segmenter.open(place, "onnxruntime-cpu") as segmenter:
            now = RunDirectory(place)
            assert awaited == "", f"{file} was never opened"
            assert segmenter.contract == NEW, f"the contract of before {file}"
            assert segmenter.palette == GREY, f"the palette of before {file}"
            assert segmenter.artifact_sha256 == now.recorded("export", "model.onnx").sha256, f"the graph before {file}"
"""


def test_a_segmenter_is_of_one_state_however_a_commit_falls(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(OPENED_BESIDE_A_COMMIT), str(tmp_path)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)

    assert done.returncode == 0, done.stderr


def test_files_read_at_one_moment_are_read_again_after_a_commit(empty_run: RunDirectory) -> None:
    for stage in ("train", "export"):
        make(empty_run, "old", stage=stage)
    reader, other = RunDirectory(empty_run.path), RunDirectory(empty_run.path)
    discarded: list[tuple[bytes, bytes]] = []

    def read() -> tuple[bytes, bytes]:
        first = reader.artifact_bytes("train", "model.bin")
        if not discarded:
            for stage in ("train", "export"):
                make(other, "new", stage=stage)
        return first, reader.artifact_bytes("export", "model.bin")

    assert reader.at_one_moment(read, discarded.append) == (b"new", b"new")
    assert discarded == [(b"old", b"new")]


def test_an_error_of_one_state_is_raised(empty_run: RunDirectory) -> None:
    make(empty_run)
    (empty_run.path / empty_run.record("train").path / "model.bin").write_text("torn")
    calls: list[str] = []

    def read() -> bytes:
        calls.append("read")
        return empty_run.artifact_bytes("train", "model.bin")

    with pytest.raises(ArtifactDamagedError, match="was changed after it was made"):
        empty_run.at_one_moment(read)
    assert calls == ["read"]
