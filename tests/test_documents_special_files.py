"""Where a file of a run or a data set should be: pipes, devices, folders and files without an end are one line."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from segpipe import Segmenter, testing
from segpipe.errors import ArtifactDamagedError, ManifestError, StorageError
from segpipe.rundir.directory import RunDirectory
from tests.children import MAIN, PATIENCE_S
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


def in_a_child(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Where a read that never ends hangs nobody, and one without bounds has little memory to take."""
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30)); {code}"
    command = [sys.executable, "-c", limited, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


@pytest.mark.parametrize(("command", "name"), [(command, name) for command in READERS for name in READERS[command]])
@pytest.mark.parametrize("kind", KINDS)
def test_no_command_waits_for_what_is_no_file(kind: str, command: str, name: str, tmp_path: Path) -> None:
    run = testing.make_run(tmp_path / "run")
    (run / "config.json").write_text('{"chosen": {}, "resolved": {}, "toml_sha256": ""}')
    (run / "segpipe.toml").write_text(LISTED)
    put_no_file(run / name, kind)
    arguments = {
        "data": ("data", "check", run),
        "import": ("import", run / "model.onnx", "--contract", run / name, "-o", tmp_path / "imported"),
    }
    done = in_a_child(MAIN, *arguments.get(command, (command, run)))

    assert "Traceback" not in done.stderr
    if (command, name) == ("show", "segpipe.toml"):  # what is no file has no hash: it reads as edited
        return
    assert done.returncode == 1
    assert str(run / name) in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_hashes_remembered_of_a_set_are_read_from_a_file_only(kind: str, tmp_path: Path) -> None:
    put_no_file(tmp_path / ".fingerprints.json", kind)
    code = "import sys, pathlib; from stages.data import files; files._remembered(pathlib.Path(sys.argv[1]))"
    done = in_a_child(code, tmp_path / ".fingerprints.json")

    last = done.stderr.splitlines()[-1:]
    assert not last or last[0].startswith("segpipe.errors.StorageError: ")


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
