"""Where a file of a run or a data set should be: pipes, devices, folders and files without an end are one line."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from segpipe import Segmenter, testing
from segpipe.errors import ArtifactDamagedError, ManifestError, StorageError
from segpipe.rundir.directory import RunDirectory
from tests.children import PATIENCE_S, ROOT
from tests.refusals import refused


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return testing.make_run(tmp_path / "run")


# --- files that are no files -----------------------------------------------------------------------------------------


KINDS = ["fifo", "device", "directory", "socket", "loop"]
READERS = {
    "show": ("manifest.json", "config.json", "segpipe.toml"),
    "run": ("segpipe.toml",),
    "import": ("contract.toml",),
    "data": ("train.txt",),
}
LISTED = """
[data]
kind = "folder"
root = "."
classes = ["a", "b"]
pairs = "{split}.txt"
[input]
height = 32
width = 48
[model]
name = "segnet"
[train]
"""


def put_no_file(path: Path, kind: str) -> None:
    """Something else in a file's place."""
    path.unlink(missing_ok=True)
    make: dict[str, Callable[[], object]] = {
        "fifo": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "directory": path.mkdir,
        "socket": lambda: os.mknod(path, 0o140644),
        "loop": lambda: path.symlink_to(path.name),
    }
    make[kind]()


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))"
CALL_ALL = f"""
{LIMITED}
import json, sys
from tests.calling import call
for words in json.load(sys.stdin):
    print(json.dumps(call(*words)), flush=True)
"""
REMEMBERED = f"""
{LIMITED}
import sys
from pathlib import Path
from segpipe.errors import StorageError
from stages.data import files
for path in sys.argv[1:]:
    try:
        print(files._remembered(Path(path)), flush=True)
    except StorageError:
        print("refused", flush=True)
"""


def in_a_child(code: str, *arguments: str | Path, text: str = "") -> list[str]:
    """The lines that it prints. A read that never ends hangs nobody, one without bounds has little memory to take."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, timeout=PATIENCE_S, cwd=ROOT
    )
    assert done.returncode == 0, f"the next after {done.stdout}: {done.stderr}"
    return done.stdout.splitlines()


def words_of(command: str, file: Path) -> list[str]:
    """A command line that reads this file of a run."""
    run = str(file.parent)
    longer = {
        "data": ["data", "check", run],
        "import": ["import", f"{run}/model.onnx", "--contract", str(file), "-o", f"{run}-imported"],
    }
    return longer.get(command, [command, run])


@pytest.mark.parametrize("kind", KINDS)
def test_no_command_waits_for_what_is_no_file(kind: str, run: Path, tmp_path: Path) -> None:
    (run / "config.json").write_text('{"chosen": {}, "resolved": {}, "toml_sha256": ""}')
    (run / "segpipe.toml").write_text(LISTED)
    tried = [(command, name) for command in READERS for name in READERS[command]]
    files = [Path(shutil.copytree(run, tmp_path / f"run{n}")) / name for n, (_, name) in enumerate(tried)]
    for file in files:
        put_no_file(file, kind)
    orders = [words_of(command, file) for (command, _), file in zip(tried, files, strict=True)]

    answers = in_a_child(CALL_ALL, text=json.dumps(orders))

    for case, file, (code, _, err) in zip(tried, files, map(json.loads, answers), strict=True):
        assert "Traceback" not in err
        if case != ("show", "segpipe.toml"):  # what is no file has no hash: it reads as edited
            assert code == 1, case
            assert str(file) in err
            assert len(err.splitlines()) == 1, err


def test_hashes_remembered_of_a_set_are_read_from_a_file_only(tmp_path: Path) -> None:
    files = [tmp_path / kind for kind in KINDS]
    for file, kind in zip(files, KINDS, strict=True):
        put_no_file(file, kind)

    assert set(in_a_child(REMEMBERED, *files)) <= {"refused", "{}"}


def test_a_file_without_an_end_is_refused_by_its_size(run: Path) -> None:
    with (run / "manifest.json").open("wb") as file:
        file.truncate(1 << 40)

    assert "more than 64 MiB" in refused(StorageError, lambda: RunDirectory(run))


def test_an_artifact_without_an_end_is_refused_by_its_size(run: Path) -> None:
    with RunDirectory(run).artifact("export", "model.onnx").open("r+b") as file:
        file.truncate(1 << 40)

    assert "was changed after it was made" in refused(ArtifactDamagedError, lambda: Segmenter.open(run))


@pytest.mark.parametrize("place", ["", "export", "validate/*", ".."])
def test_a_folder_that_may_not_be_searched_is_one_line(place: str, run: Path) -> None:
    for path in (run, *run.parents):
        if path.stat().st_uid == os.getuid() and "pytest" in str(path):
            path.chmod(0o755)
    (folder,) = run.glob(place) if place not in {"", ".."} else (run / place,)
    folder.chmod(0o600)
    script = f"""
        import os, sys
        from pathlib import Path
        from segpipe.errors import SegpipeError
        from segpipe.rundir.directory import RunDirectory
        from segpipe.rundir.status import run_status
        from segpipe.rundir.verify import verify
        if os.getuid() == 0:
            os.setuid(65534)
        for read in (run_status, verify):
            try:
                read(RunDirectory(Path({str(run)!r})))
            except SegpipeError as error:
                print(error)
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
        )
    finally:
        folder.chmod(0o755)

    assert not done.stderr
    assert done.stdout.count("Permission denied. give this user permission to read it") == 2


@pytest.mark.parametrize("name", ["a\x00b", "x" * 300, "a\nb", "\x1b[2J"])
def test_a_manifest_names_no_file_that_cannot_be(name: str, run: Path) -> None:
    content = json.loads((run / "manifest.json").read_text())
    content["stages"]["export"]["outputs"][name] = {"sha256": "0" * 64, "size_bytes": 1}
    (run / "manifest.json").write_text(json.dumps(content))

    assert "is not a file name" in refused(ManifestError, lambda: RunDirectory(run))
