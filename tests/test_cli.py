"""The command line: what goes to stdout, what to stderr, and the exit codes."""

import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

from segpipe.cli import app
from segpipe.errors import InputError, SegpipeError
from segpipe.media.images import read_image, write_image
from segpipe.rundir.directory import RunDirectory
from tests.calling import call
from tests.children import ROOT
from tests.tiny import write_tiny

OF_TYPER = {"help", "install_completion", "show_completion"}


def helps(command: Any, words: str) -> Iterator[tuple[str, str]]:
    """Each help text by the words of the command and the parameter that it is of."""
    yield words, command.help or ""
    yield from ((f"{words} {one.name}", one.help or "") for one in command.params if one.name not in OF_TYPER)
    for name, inner in getattr(command, "commands", {}).items():
        yield from helps(inner, f"{words} {name}")


@pytest.mark.parametrize(("words", "text"), list(helps(get_command(app), "segpipe")))
def test_a_help_text_is_understood_alone(words: str, text: str) -> None:
    said = re.findall(r"[\w'.-]+", text.casefold())

    assert len(said) >= 4, f"{words}: {text!r} says too little"
    leaning = {"it", "them", "these", "those", "there", "others"} & set(said)
    assert len(said) > 7 or not leaning, f"{words}: in {text!r}, what is {leaning}?"


def test_every_command_prints_its_help() -> None:
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        code, out, _ = call(name, "--help")

        assert code == 0
        assert "Usage" in out


def test_new_prints_the_path_it_wrote(tmp_path: Path) -> None:
    code, out, _ = call("new", tmp_path / "run", "--template", "camvid")

    assert (code, out.strip()) == (0, str(tmp_path / "run/segpipe.toml"))


def test_show_lists_stages_and_why_they_are_stale(run_copy: Path) -> None:
    config = json.loads((run_copy / "config.json").read_text())
    config["chosen"]["train"]["epochs"] = 9
    (run_copy / "config.json").write_text(json.dumps(config))
    code, out, _ = call("show", run_copy, "--json")
    lines = {line["stage"]: line for line in json.loads(out)}

    assert code == 0
    assert (lines["train"]["state"], lines["train"]["why"]) == ("stale", "train.epochs 3 -> 9")
    assert lines["export"]["why"] == "train is stale"
    assert {lines[name]["state"] for name in ("export", "build", "validate", "benchmark")} == {"stale"}
    assert "test mIoU" in call("show", run_copy)[1]


def test_show_keeps_the_order_of_the_pipeline(run_copy: Path) -> None:
    with RunDirectory(run_copy).step("islands", {}, {}) as step:
        step.path("islands.json").write_text("[]")
    manifest = json.loads((run_copy / "manifest.json").read_text())
    manifest["stages"]["train"]["started_utc"] = "2999-01-01T00:00:00+00:00"
    (run_copy / "manifest.json").write_text(json.dumps(manifest))

    names = [line["stage"] for line in json.loads(call("show", run_copy, "--json")[1])]
    assert names == ["train", "export", "build", "validate", "benchmark", "islands"]


def test_show_says_that_the_config_was_edited(run_copy: Path) -> None:
    assert "changed since" not in call("show", run_copy)[2]
    with (run_copy / "segpipe.toml").open("a") as file:
        file.write("# edited\n")

    code, _, err = call("show", run_copy)

    assert code == 0
    assert "segpipe.toml changed since the last command" in err


def test_verify_names_damaged_files_and_exits_1(run_copy: Path) -> None:
    assert call("verify", run_copy)[0] == 0
    path = RunDirectory(run_copy).artifact("build", "model.rtx.engine")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    code, out, err = call("verify", run_copy)

    assert code == 1
    assert "model.rtx.engine" in out
    assert err.startswith("error: build/")
    assert err.count("\n") == 1


def test_predict_writes_masks_and_overlays_and_goes_on_past_broken_files(finished_run: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "in/good.png", np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "in/torn.png").write_bytes(b"no picture")
    code, out, err = call("predict", finished_run, tmp_path / "in", "--out", tmp_path / "out")

    assert code == 1
    assert out.strip() == str(tmp_path / "out")
    assert "torn.png is not an image" in err
    assert "1 of 2 inputs could not be segmented" in err
    assert read_image(tmp_path / "out/masks/good.png").shape == (20, 30, 1)
    assert read_image(tmp_path / "out/overlays/good.png").shape == (20, 30, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["show", "{tmp}/nowhere"], 1, "there is no run directory"),
        (["show", "{tmp}"], 1, "is not a run directory"),
        (["show", "{run}/segpipe.toml"], 1, "is a file"),
        (["run", "{tmp}/nowhere"], 1, "does not exist"),
        (["export", "{run}"], 1, "stage 'train' has not run"),
        (["run", "{run}", "--set", "train.epoch=1"], 1, "did you mean 'epochs'?"),
        (["run", "{run}", "--from", "build", "--until", "train"], 2, "--from build comes after --until train"),
        (["run", "{run}", "--until", "deploy"], 2, "'deploy' is not one of"),
        (["predict", "{run}", "nothing.png", "-o", "{tmp}/out"], 1, "nothing.png does not exist"),
        (["validate", "{run}", "--explain", "--force"], 2, "take no --force"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_known_errors_are_one_line_with_an_exit_code(
    tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    run = write_tiny(tmp_path / "run")
    found, out, err = call(*(text.format(tmp=tmp_path, run=run) for text in arguments))

    assert found == code
    assert said in " ".join(err.replace("│", " ").split())
    assert out == ""
    assert code == 2 or err.count("\n") == 1


def test_doctor_says_how_to_get_what_is_missing() -> None:
    code, out, _ = call("doctor", "--json")
    findings = json.loads(out)

    assert code == 0
    assert all(finding["present"] or finding["hint"] for finding in findings)
    assert {"NVIDIA GPU", "ONNX Runtime", "TensorRT", "TensorRT for RTX", "PyCUDA"} <= {f["name"] for f in findings}


@pytest.mark.parametrize("cpu", [True, False])
def test_doctor_advises_the_extra_cuda_only_where_the_extra_cpu_is_not(cpu: bool, tmp_path: Path) -> None:
    if cpu:
        info = tmp_path / "onnxruntime-1.31.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime\nVersion: 1.31\n")
    script = f"""
import sys
class Absent:
    def find_spec(name, *_):
        if name.partition(".")[0] == "cuda":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent)
import segpipe.doctor
library = [path for path in sys.path if "site-packages" not in path]  # metadata is read by modules that load late
sys.path[:] = [{str(tmp_path)!r}, *library]
print(next(finding.hint for finding in segpipe.doctor.examine() if finding.name == "cuda-python"))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)

    assert ("segpipe[cuda]" in result.stdout) != cpu
    assert "cuda-bindings" in result.stdout or not cpu


def test_report_and_benchmark_print_a_path_and_json(run_copy: Path) -> None:
    code, out, _ = call("report", run_copy)

    assert (code, out.strip()) == (0, str(run_copy / "report.html"))
    code, out, err = call("benchmark", run_copy, "--json")
    assert code == 0
    assert "contestants" in json.loads(out)
    assert err == "benchmark: fresh, nothing to do\n"


def test_paths_that_the_system_refuses_are_one_line(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "run" / "segpipe.toml").mkdir(parents=True)
    write_image(tmp_path / "frame.png", np.zeros((20, 30, 3), np.uint8))
    refused = [
        (("new", tmp_path / "file"), "cannot write"),
        (("new", tmp_path / "file" / "run"), "cannot write"),
        (("run", tmp_path / "run"), "cannot use"),
        (("run", tmp_path / "file"), "cannot use"),
        (("report", finished_run, "-o", tmp_path / "file" / "page.html"), "cannot use"),
        (("report", finished_run, "-o", tmp_path / "run"), "cannot use"),
        (("predict", finished_run, tmp_path / "frame.png", "-o", tmp_path / "file"), "cannot write"),
    ]
    for arguments, said in refused:
        code, _, err = call(*arguments)

        assert (code, err.splitlines()[-1].startswith(f"error: {said} {tmp_path}")) == (1, True), err
        assert "Traceback" not in err


def test_an_image_with_an_absurd_header_is_wrong_input(tmp_path: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 1 << 24, 1 << 24, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)

    with pytest.raises(InputError, match=r"huge\.png is damaged"):
        read_image(tmp_path / "huge.png")


def test_a_bug_keeps_its_traceback_and_exits_70() -> None:
    script = """
import segpipe.doctor, segpipe.cli, sys
segpipe.doctor.examine = None
sys.argv[1:] = ['doctor']
segpipe.cli.main()
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert result.returncode == 70
    assert "TypeError" in result.stderr


def test_ctrl_c_exits_130_with_one_line() -> None:
    script = """
import segpipe.doctor, segpipe.cli, sys
def interrupted(): raise KeyboardInterrupt
segpipe.doctor.examine = interrupted
sys.argv[1:] = ['doctor']
segpipe.cli.main()
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert result.returncode == 130
    assert result.stderr == "interrupted; the same command goes on from here\n"


def test_shell_completion_is_offered() -> None:
    environment = {**os.environ, "_SEGPIPE_COMPLETE": "complete_bash", "COMP_WORDS": "segpipe ver", "COMP_CWORD": "1"}
    result = subprocess.run(
        [Path(sys.executable).with_name("segpipe")], env=environment, capture_output=True, text=True, check=False
    )

    assert "verify" in result.stdout


def test_every_error_says_its_hint_and_keeps_its_builtin() -> None:
    error = InputError("a frame is wrong", hint="pass a right one")

    assert str(error) == "a frame is wrong. pass a right one"
    assert isinstance(error, SegpipeError)
    assert isinstance(error, ValueError)
