"""What a run directory vouches for, and what is refused: damaged files, broken manifests, foreign paths."""

import json
import re
import shlex
from pathlib import Path

import pytest

from segpipe.errors import (
    ArtifactDamagedError,
    ArtifactMissingError,
    ContractError,
    ManifestError,
    NotARunError,
    SegpipeError,
    StorageError,
)
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.verify import PathState, verify
from tests.test_rundir import A, B, make


def test_artifacts_name_the_command_that_makes_them(empty_run: RunDirectory) -> None:
    with pytest.raises(ArtifactMissingError, match=r"stage 'train' has not run.*segpipe run .* --until train"):
        empty_run.artifact("train", "model.bin")


@pytest.mark.parametrize("name", ["my runs", "it's $HOME"])
def test_commands_in_hints_can_be_pasted(name: str, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / name)

    for act in (lambda: run.record("train"), lambda: RunDirectory(tmp_path / f"{name} 2")):
        with pytest.raises(SegpipeError) as caught:
            act()
        (command,) = re.findall("`(segpipe [^`]+)`", caught.value.hint)
        assert shlex.split(command)[2].startswith(str(run.path))


def test_one_changed_byte_is_refused(empty_run: RunDirectory) -> None:
    make(empty_run)
    path = empty_run.artifact("train", "model.bin")
    path.write_text("onf")

    for read in (empty_run.artifact, empty_run.artifact_bytes):
        with pytest.raises(ArtifactDamagedError, match=r"was changed after it was made.*make it again"):
            read("train", "model.bin")
    assert verify(empty_run)[1] == [PathState(path.relative_to(empty_run.path).as_posix(), "damaged")]


def test_a_read_that_the_system_refuses_is_explained(empty_run: RunDirectory) -> None:
    make(empty_run)
    (empty_run.path / "config.json").mkdir()
    path = empty_run.artifact("train", "model.bin")
    path.unlink()
    path.symlink_to(Path("/proc/self/mem"))  # a regular file whose first page cannot be read

    with pytest.raises(StorageError, match=r"cannot use .*config\.json: Is a directory"):
        empty_run.config()
    for read in (lambda: empty_run.artifact_bytes("train", "model.bin"), lambda: verify(empty_run)):
        with pytest.raises(StorageError, match=r"cannot use .*model\.bin: Input/output error.*fault"):
            read()


def test_a_missing_file_is_named(empty_run: RunDirectory) -> None:
    make(empty_run)
    path = empty_run.artifact("train", "model.bin")
    path.unlink()

    with pytest.raises(ArtifactMissingError, match=r"train/model.bin is not in"):
        empty_run.artifact("train", "model.bin")
    assert verify(empty_run)[1] == [PathState(path.relative_to(empty_run.path).as_posix(), "missing")]


def test_stages_that_build_on_others_must_share_the_contract(empty_run: RunDirectory) -> None:
    with empty_run.step("train", {"data": A}, {}) as step:
        step.contract_sha256 = A
        step.path("model.bin").write_text("one")

    inputs = [empty_run.artifact("train", "model.bin")]
    with (
        pytest.raises(ContractError, match="was made for contract bbbbbbbbbbbb"),
        empty_run.step("export", inputs, {}) as step,
    ):
        step.contract_sha256 = B
        step.path("model.onnx").write_text("graph")
    assert "export" not in empty_run.manifest.stages


def test_a_folder_named_like_an_outside_input_is_no_stage(empty_run: RunDirectory) -> None:
    (empty_run.path / "data").mkdir()
    for data, contract in ((A, A), (B, B)):
        with empty_run.step("train", {"data": data}, {}) as step:
            step.contract_sha256 = contract
            step.path("model.bin").write_text("one")

    assert empty_run.manifest.contract_sha256 == B


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema": 1, "stages": {"tr', "is not JSON .*cut off"),
        ("no json at all", "is not JSON"),
        ("", "is not JSON"),
        ('{"schema": 99}', "has schema 99, this segpipe reads up to 1.*upgrade"),
        ('{"schema": 1, "stages": {"train": {}}}', "is not a manifest: stages.train.key"),
        ("[1, 2]", "is not a manifest"),
    ],
)
def test_a_broken_manifest_is_told_in_one_line(empty_run: RunDirectory, text: str, said: str) -> None:
    make(empty_run)
    (empty_run.path / "manifest.json").write_text(text)

    with pytest.raises(ManifestError, match=said) as caught:
        RunDirectory(empty_run.path)
    assert "\n" not in str(caught.value)
    assert (empty_run.path / "train").is_dir(), "nothing is lost"


@pytest.mark.parametrize("folder", ["/etc", "../other/0123456789ab", "train/../../0123456789ab", "train", ""])
def test_a_manifest_names_no_folder_outside_its_run(empty_run: RunDirectory, folder: str) -> None:
    make(empty_run)
    content = json.loads((empty_run.path / "manifest.json").read_text())
    content["stages"]["train"]["path"] = folder
    (empty_run.path / "manifest.json").write_text(json.dumps(content))

    with pytest.raises(ManifestError, match=r"is not a manifest: stages\.train\.path"):
        RunDirectory(empty_run.path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../model.bin", "pictures/../../../x", ""])
def test_a_manifest_names_no_file_outside_its_run(empty_run: RunDirectory, name: str) -> None:
    make(empty_run)
    content = json.loads((empty_run.path / "manifest.json").read_text())
    outputs = content["stages"]["train"]["outputs"]
    outputs[name] = outputs.pop("model.bin")
    (empty_run.path / "manifest.json").write_text(json.dumps(content))

    with pytest.raises(ManifestError, match="does not lie inside the run"):
        RunDirectory(empty_run.path)


def test_a_directory_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(NotARunError, match=r"is not a run directory.*segpipe new"):
        RunDirectory(tmp_path)
    with pytest.raises(NotARunError):
        RunDirectory(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotARunError):
        RunDirectory.create(tmp_path / "file")
