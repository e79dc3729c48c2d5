"""A bundle on another machine: what it carries, what it says of itself, and where its words lead."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from segpipe import testing
from segpipe.bundle import write_bundle
from segpipe.errors import ArtifactMissingError, BackendError, InputError, NotValidatedError
from segpipe.local_verdicts import REFERENCE
from segpipe.media.images import write_image
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.verify import verify
from segpipe.runtime.opening import build_options
from segpipe.runtime.request import OpenOptions
from segpipe.runtime.segmenter import Segmenter
from segpipe.runtime.trt.preflight import Here, require_fit
from segpipe.verdict import FILE_NAME, STAGE
from stages.validate.without_pytorch import validate_hop
from tests.cpu_rows import ROWS
from tests.old_runs import unpack
from tests.test_base_install import call
from tests.trained import replace_output
from tests.unjudged import CPU, ENGINE, GPU, RTX, commands, without_verdict


@pytest.fixture(scope="module")
def unjudged_run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose graph no verdict passed on a CPU."""
    run = Path(shutil.copytree(trained_run, tmp_path_factory.mktemp("unjudged") / "run"))
    for row in ROWS:
        without_verdict(run, row.name)
    return run


@pytest.fixture
def bundle(unjudged_run: Path, tmp_path: Path) -> Path:
    """A bundle of it, with its reference."""
    return write_bundle(RunDirectory(unjudged_run), tmp_path / "bundle", with_reference=True)


# --- the whole way ---------------------------------------------------------------------------------------------------


def test_messages_followed_to_the_letter_end_in_masks(unjudged_run: Path, tmp_path: Path) -> None:
    plain = write_bundle(RunDirectory(unjudged_run), tmp_path / "plain")
    write_image(tmp_path / "one.png", testing.make_frame(40, 60)[0])
    use = (tmp_path / "one.png", "-o", tmp_path / "out")

    refused = call("predict", plain, *use, "--backend", CPU)
    names = {"RUN": str(unjudged_run), "DIR": str(tmp_path / "there")}
    steps = [[names.get(word, word) for word in command] for command in commands(refused.stderr)]
    assert [step[0] for step in steps] == ["run", "bundle", "validate"], refused.stderr
    done = [call(*step) for step in steps[1:]]  # the run is validated already
    opened = call("predict", names["DIR"], *use, "--backend", CPU)

    assert refused.returncode == 1
    assert [step.returncode for step in done] == [0, 0], [step.stderr for step in done]
    assert opened.returncode == 0, opened.stderr
    assert (tmp_path / "out" / "masks" / "one.png").is_file()


@pytest.mark.parametrize(
    "arguments", [("validate",), ("validate", "--hop", "engine"), ("predict",), ("predict", "--backend", "tensorrt")]
)
def test_every_refusal_of_a_bundle_names_a_command(bundle: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    more = (tmp_path / "one.png", "-o", tmp_path / "out") if arguments[0] == "predict" else ()
    write_image(tmp_path / "one.png", testing.make_frame(40, 60)[0])
    done = call(arguments[0], bundle, *more, *arguments[1:])

    assert done.returncode == 1
    assert commands(done.stderr.splitlines()[-1]), done.stderr
    assert "Traceback" not in done.stderr


def test_a_bundle_of_before_is_opened_and_says_what_it_lacks(tmp_path: Path) -> None:
    old = unpack("bundle", tmp_path)
    again = "`segpipe bundle RUN -o DIR --with-reference`"

    Segmenter.open(old, CPU).close()
    with pytest.raises(ArtifactMissingError, match=rf"holds no stored reference.*{again}"):
        validate_hop(RunDirectory(old), "engine")
    with pytest.raises(NotValidatedError, match=rf"was not judged on {RTX}.*carries no reference.*{again}"):
        Segmenter.open(old, RTX)


# --- what a bundle carries -------------------------------------------------------------------------------------------


def test_what_judging_needs_is_carried_when_asked_for(unjudged_run: Path, bundle: Path, tmp_path: Path) -> None:
    plain = write_bundle(RunDirectory(unjudged_run), tmp_path / "plain")

    assert set(RunDirectory(plain).record(STAGE).outputs) == {FILE_NAME}
    assert set(RunDirectory(bundle).record(STAGE).outputs) == {FILE_NAME, *REFERENCE}
    assert verify(RunDirectory(bundle))[1] == []


def test_a_run_without_a_reference_cannot_give_one(tmp_path: Path) -> None:
    run = RunDirectory(testing.make_run(tmp_path / "run"))

    with pytest.raises(ArtifactMissingError, match=r"holds no stored reference.*segpipe run .* --until validate"):
        write_bundle(run, tmp_path / "bundle", with_reference=True)
    assert not (tmp_path / "bundle").exists()


def test_the_machine_an_engine_is_for_is_refused_in_a_bundle_as_in_its_run(tmp_path: Path) -> None:
    run = RunDirectory(testing.make_run(tmp_path / "run"))
    with run.step("build", {}, {}) as step:
        step.path(ENGINE).write_bytes(b"engine")
        step.figures = {RTX: {"built_for": {"system": "Windows"}, "seconds": 1.5}}
    bundle = RunDirectory(write_bundle(run, tmp_path / "bundle"))
    options = build_options(bundle, RTX, OpenOptions())

    with pytest.raises(BackendError, match=r"was built on Windows, this is Linux.*`segpipe build RUN`"):
        require_fit(RTX, options.built_for, Here("1.7", GPU, (9, 0), "Linux"), options.run)
    assert bundle.record("build").figures == {RTX: {"built_for": {"system": "Windows"}}}


@pytest.mark.parametrize("name", ["reference.json", "report.json"])
def test_a_reference_of_another_version_is_one_typed_line(bundle: Path, name: str) -> None:
    run = RunDirectory(bundle)
    replace_output(run, STAGE, name, run.artifact_bytes(STAGE, name).replace(b'"images"', b'"pictured"', 1))

    with pytest.raises(InputError, match=rf"{name} of .*`segpipe bundle RUN -o DIR"):
        validate_hop(RunDirectory(bundle), CPU)


def test_a_bundle_without_the_gates_stage_is_refused_with_what_makes_one(tmp_path: Path) -> None:
    manifest = testing.make_run(tmp_path) / "manifest.json"
    record = json.loads(manifest.read_text())
    record["stages"] = {"export": {**record["stages"]["export"], "inputs": {}}}
    manifest.write_text(json.dumps(record))

    with pytest.raises(NotValidatedError, match="no verdict for artifact") as caught:
        Segmenter.open(tmp_path, CPU)
    assert "`segpipe bundle RUN -o DIR" in (caught.value.hint or "")


# --- a GPU that is passed over ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("visible", "warned"), [("0", True), ("", False)])
def test_auto_warns_of_a_gpu_without_work(tmp_path: Path, visible: str, warned: bool) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed, so there is no driver to be found")
    driver = [compiler, "-shared", "-x", "c++", os.devnull, "-o", str(tmp_path / "libcuda.so.1")]
    subprocess.run(driver, check=True)
    run = testing.make_run(tmp_path / "run")
    script = f"""
import logging
logging.basicConfig(format="%(levelname)s %(message)s")
from segpipe import Segmenter
Segmenter.open({str(run)!r}).close()
"""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": visible}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)

    lines = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert len(lines) == warned, done.stderr
    assert not warned or (f"the GPU is not used, {CPU} runs" in lines[0] and "`segpipe validate" in lines[0])
