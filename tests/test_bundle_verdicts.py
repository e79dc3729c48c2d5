"""Verdicts in and beside a bundle: made on the spot, overruled by a failure, left out when they cannot be read."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segpipe import testing
from segpipe.bundle import write_bundle
from segpipe.errors import InputError, NotValidatedError, StorageError
from segpipe.local_verdicts import FOLDER, VARIABLE
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.status import run_status
from segpipe.rundir.verify import verify
from segpipe.runtime.opening import run_contract
from segpipe.runtime.segmenter import Segmenter
from segpipe.verdict import FILE_NAME, STAGE, VERDICTS, Verdict, all_verdicts, require_passed, stored_verdicts
from stages.results.gate import GateReport
from stages.validate.hops.hop import Hop
from stages.validate.hops.opening import BackendAnswer, OpenHops
from stages.validate.hops.stored import StoredReference
from stages.validate.without_pytorch import gate_peak, judge_hops, keep, validate_hop
from tests.host_engine import host_backend
from tests.test_base_install import call
from tests.trained import replace_output
from tests.unjudged import CPU, ENGINE, GPU, RTX, commands, without_verdict


@pytest.fixture(scope="module")
def unjudged_run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose graph no verdict passed on the backend that every machine has."""
    run = Path(shutil.copytree(trained_run, tmp_path_factory.mktemp("unjudged") / "run"))
    without_verdict(run, CPU)
    return run


@pytest.fixture
def bundle(unjudged_run: Path, tmp_path: Path) -> Path:
    """A bundle of it, with its reference."""
    return write_bundle(RunDirectory(unjudged_run), tmp_path / "bundle", with_reference=True)


def judged_engine(run: RunDirectory, device: str = GPU) -> Verdict:
    """The verdict of the run's engine, which the graph in FP32 stands for, on a GPU of host memory."""
    contract, graph = run_contract(run), run.artifact_bytes("export", "model.onnx")
    sha256 = run.recorded("build", ENGINE).sha256
    with OpenHops(run, contract) as opened:
        answer = BackendAnswer(host_backend(contract, graph), contract)
        opened.hops.append(Hop(RTX, "build", ENGINE, sha256, RTX, device, answer, "fp16"))
        assert keep(run, judge_hops(run, StoredReference(run), opened)) == []
    return all_verdicts(run)[-1]


def test_activations_count_in_a_bundle_as_in_its_run(unjudged_run: Path, bundle: Path) -> None:
    run, copy = RunDirectory(unjudged_run), RunDirectory(bundle)
    report = GateReport.model_validate_json(run.artifact_bytes(STAGE, "report.json"))

    assert gate_peak(run, report) is not None
    assert gate_peak(copy, report) == gate_peak(run, report)


def test_engines_without_a_verdict_are_told_with_the_commands(
    unjudged_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDirectory(unjudged_run)
    write_bundle(run, tmp_path / "plain")
    write_bundle(run, tmp_path / "whole", with_reference=True)

    plain, whole = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert f"refuse {ENGINE}" in plain
    assert commands(plain)[0] == ["bundle", str(unjudged_run), "-o", "DIR", "--with-reference"]
    assert commands(whole) == [["validate", str(tmp_path / "whole"), "--hop", "engine"]]


def test_verdicts_made_beside_a_run_go_into_its_bundle(
    trained_copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = judged_engine(RunDirectory(trained_copy))
    bundle = RunDirectory(write_bundle(RunDirectory(trained_copy), tmp_path / "bundle"))

    assert engine.status == "passed"
    require_passed(bundle, engine.artifact_sha256, RTX, GPU)
    assert not (bundle.path / FOLDER).exists()
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


def test_what_failed_beside_a_run_goes_into_its_bundle_unjudged(trained_copy: Path, tmp_path: Path) -> None:
    run = RunDirectory(trained_copy)
    engine = judged_engine(run)
    (path,) = (trained_copy / FOLDER).iterdir()
    path.write_text(
        path.read_text().replace('"status": "passed",\n    "reasons"', '"status": "failed",\n    "reasons"')
    )
    assert all_verdicts(run)[-1].status == "failed"
    bundle = RunDirectory(write_bundle(run, tmp_path / "bundle", with_reference=True))

    with pytest.raises(NotValidatedError, match="--hop engine"):
        require_passed(bundle, engine.artifact_sha256, RTX, GPU)
    require_passed(bundle, judged_engine(bundle).artifact_sha256, RTX, GPU)


# --- verdicts made on the spot ---------------------------------------------------------------------------------------


def test_a_verdict_made_on_the_spot_outlives_another_deploy(unjudged_run: Path, bundle: Path) -> None:
    own = RunDirectory(bundle).artifact_bytes(STAGE, FILE_NAME)
    with pytest.raises(NotValidatedError, match=f"--hop {CPU}"):
        Segmenter.open(bundle, CPU)
    validate_hop(RunDirectory(bundle), CPU)
    fresh = write_bundle(RunDirectory(unjudged_run), bundle.with_name("fresh"), with_reference=True)
    shutil.copytree(fresh, bundle, dirs_exist_ok=True)

    Segmenter.open(bundle, CPU).close()
    assert RunDirectory(bundle).artifact_bytes(STAGE, FILE_NAME) == own
    assert verify(RunDirectory(bundle))[1] == []


def test_an_engine_is_opened_on_the_gpu_that_judged_it_only(bundle: Path) -> None:
    run = RunDirectory(bundle)
    engine = judged_engine(run)

    assert (engine.status, engine.device) == ("passed", GPU)
    require_passed(run, engine.artifact_sha256, RTX, GPU)
    with pytest.raises(NotValidatedError, match=r"Other GPU.*--hop engine"):
        require_passed(run, engine.artifact_sha256, RTX, "Other GPU")


def test_two_gpus_that_share_a_bundle_keep_a_verdict_each(bundle: Path) -> None:
    run = RunDirectory(bundle)
    engines = [judged_engine(run, device) for device in (GPU, "Other GPU")]

    for engine in engines:
        require_passed(run, engine.artifact_sha256, RTX, engine.device)


@pytest.mark.parametrize("changed", ["artifact_sha256", "contract_sha256", "basis_sha256"])
def test_a_verdict_of_other_bytes_contract_or_images_says_nothing(bundle: Path, changed: str) -> None:
    run = RunDirectory(bundle)
    validate_hop(run, CPU)
    edit_local(bundle, lambda content: content["verdict"].update({changed: "0" * 64}))

    assert all_verdicts(run) == stored_verdicts(run)
    with pytest.raises(NotValidatedError):
        Segmenter.open(bundle, CPU)


def test_what_the_gate_failed_on_all_images_stays_failed(bundle: Path) -> None:
    run = RunDirectory(bundle)
    engine = judged_engine(run)
    failed = (*stored_verdicts(run), engine.model_copy(update={"status": "failed"}))
    replace_output(run, STAGE, FILE_NAME, VERDICTS.dump_json(failed))

    with pytest.raises(NotValidatedError, match="was judged: failed"):
        require_passed(RunDirectory(bundle), engine.artifact_sha256, RTX, GPU)


def edit_local(bundle: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The one file, changed."""
    (path,) = (bundle / FOLDER).iterdir()
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.update(schema_version=2), "has schema 2.*pip install -U segpipe"),
        (lambda content: content["verdict"].update(status=1), r"verdict\.status.*pip install -U segpipe"),
        (lambda content: content["verdict"].update(new="field"), r"verdict\.new.*pip install -U segpipe"),
        (lambda content: content.update(made_utc="noon"), "made_utc.*delete it and run `segpipe validate"),
        (lambda content: content.clear(), "is not a local verdict: made_utc.*delete it and run `segpipe validate"),
    ],
)
def test_an_unreadable_verdict_is_left_out_with_one_line(
    trained_run: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[dict[str, Any]], object],
    words: str,
) -> None:
    bundle = write_bundle(RunDirectory(trained_run), tmp_path / "bundle", with_reference=True)
    validate_hop(RunDirectory(bundle), CPU)
    path = edit_local(bundle, change)
    caplog.clear()

    Segmenter.open(bundle, CPU).close()  # by its own verdict

    (line,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert re.search(f"{path.name}.* {words}", line)
    assert "\n" not in line
    assert [finding.path for finding in verify(RunDirectory(bundle))[1]] == [f"{FOLDER}/{path.name}"]
    assert [line.state for line in run_status(RunDirectory(bundle))][-1] == "unreadable"
    assert call("verify", bundle).stderr.count("segpipe validate") == 1


def test_what_is_no_file_among_the_verdicts_is_left_out(trained_run: Path, tmp_path: Path) -> None:
    bundle = write_bundle(RunDirectory(trained_run), tmp_path / "bundle")
    (bundle / FOLDER / "folder.verdict.json").mkdir(parents=True)
    (bundle / FOLDER / "link.verdict.json").symlink_to("nowhere")
    os.mkfifo(bundle / FOLDER / "pipe.verdict.json")

    Segmenter.open(bundle, CPU).close()
    findings = verify(RunDirectory(bundle))[1]
    assert [finding.path for finding in findings] == [f"{FOLDER}/folder.verdict.json", f"{FOLDER}/pipe.verdict.json"]


def test_what_is_somebody_elses_among_the_verdicts_is_not_spoken_of(
    trained_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_bundle(RunDirectory(trained_run), tmp_path / "bundle")
    place = tmp_path / "place"
    (place / "folder.json").mkdir(parents=True)
    (place / "package.json").write_text('{"name": "mine"}')
    (place / "build-202611211903.json").write_text("no json")
    os.mkfifo(place / "pipe.json")
    monkeypatch.setenv(VARIABLE, str(place))
    caplog.clear()

    Segmenter.open(bundle, CPU).close()
    assert verify(RunDirectory(bundle))[1] == []
    assert "unreadable" not in [line.state for line in run_status(RunDirectory(bundle))]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("name", [f"{CPU}-cpu-0123456789ab.json", "renamed.json"])
def test_verdicts_named_as_before_are_read(bundle: Path, name: str) -> None:
    validate_hop(RunDirectory(bundle), CPU)
    (path,) = (bundle / FOLDER).iterdir()
    path.rename(path.with_name(name))

    Segmenter.open(bundle, CPU).close()
    assert path.name.endswith(".verdict.json")
    (bundle / FOLDER / f"{CPU}-cpu-0123456789ab.json").write_text("torn")
    assert [finding.state for finding in verify(RunDirectory(bundle))[1]] == ["unreadable"]


@pytest.mark.parametrize(
    "made", ["2026-11-21T10:00:00+00:00", "2026-11-21T10:30:00+01:00", "2026-11-21T11:00:00+01:00"]
)
@pytest.mark.parametrize("failed_in_run", [True, False])
def test_a_newer_failure_beats_an_older_pass_wherever_they_lie(
    trained_copy: Path, tmp_path: Path, made: str, failed_in_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(trained_copy)
    engine = judged_engine(run)
    (path,) = (trained_copy / FOLDER).iterdir()
    content = json.loads(path.read_text())
    passed = {**content, "made_utc": made}
    failure = {**content, "made_utc": "2026-11-21T10:00:00+00:00"}
    failure["verdict"] = {**content["verdict"], "status": "failed"}
    (tmp_path / "place").mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "place"))
    here, there = (failure, passed) if failed_in_run else (passed, failure)
    path.write_text(json.dumps(here))
    (tmp_path / "place" / path.name).write_text(json.dumps(there))

    with pytest.raises(NotValidatedError, match="was judged: failed"):
        require_passed(run, engine.artifact_sha256, RTX, GPU)
    bundle = RunDirectory(write_bundle(run, tmp_path / "bundle"))
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(NotValidatedError):
        require_passed(bundle, engine.artifact_sha256, RTX, GPU)
    newest = {**passed, "made_utc": "2026-11-21T10:00:01+00:00"}
    path.write_text(json.dumps(newest))
    require_passed(RunDirectory(trained_copy), engine.artifact_sha256, RTX, GPU)


@pytest.mark.parametrize("content", [b"[1]", b"{}", b"\xff", b'[{"status": "passed"}]', b"[" * 9999, b""])
def test_verdicts_of_wrong_types_are_one_typed_line(tmp_path: Path, content: bytes) -> None:
    run = RunDirectory(testing.make_run(tmp_path))
    replace_output(run, STAGE, FILE_NAME, content)

    with pytest.raises(InputError, match=r"^validate/verdicts\.json of .*--force") as caught:
        Segmenter.open(tmp_path, CPU)
    assert "\n" not in str(caught.value)
    assert "unreadable" in [line.state for line in run_status(RunDirectory(tmp_path))]


def test_the_rows_of_show_tell_whose_verdict_it_is(bundle: Path) -> None:
    validate_hop(RunDirectory(bundle), CPU)

    rows = [line for line in run_status(RunDirectory(bundle)) if line.stage == "verdict"]
    graph = f"export/model.onnx on {CPU}"
    assert ("not judged", "in the bundle", f"{graph} (none)") in [(r.state, r.why, r.headline) for r in rows]
    assert (rows[-1].state, rows[-1].why, rows[-1].headline) == ("passed", "made here", f"{graph} (cpu)")
    edit_local(bundle, lambda content: content["verdict"].update(basis_sha256="0"))
    last = run_status(RunDirectory(bundle))[-1]
    assert (last.state, last.why) == ("void", "on other images or limits")


# --- bundles that cannot be written ----------------------------------------------------------------------------------


def test_a_read_only_bundle_names_another_place_which_then_serves(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (bundle, *bundle.parents):
        if path.stat().st_uid == os.getuid() and "pytest" in str(path):
            path.chmod(0o755)
    bundle.chmod(0o555)
    script = f"""
import os, sys
from pathlib import Path
from segpipe.errors import StorageError
from segpipe.rundir.directory import RunDirectory
from stages.validate.without_pytorch import validate_hop
if os.getuid() == 0:
    os.setuid(65534)
try:
    validate_hop(RunDirectory(Path({str(bundle)!r})), {CPU!r})
except StorageError as error:
    print(error)
"""
    refused = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    monkeypatch.setenv(VARIABLE, str(tmp_path / "other" / "place"))
    validate_hop(RunDirectory(bundle), CPU)

    Segmenter.open(bundle, CPU).close()
    assert re.fullmatch(rf"cannot write .*{FOLDER}.*Permission denied.*set {VARIABLE} to a folder.*\n", refused)
    assert len(list((tmp_path / "other" / "place").iterdir())) == 1
    assert not (bundle / FOLDER).exists()
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(NotValidatedError):
        Segmenter.open(bundle, CPU)


def test_another_place_that_cannot_be_made_is_one_line(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StorageError, match="name another path"):
        patch.setenv(VARIABLE, str(tmp_path / "file" / "folder"))
        assert all_verdicts(RunDirectory(bundle))
        validate_hop(RunDirectory(bundle), CPU)
