"""What the command prints to: a terminal of 80 columns, a pipe, a notebook; closed, full, or left by its reader."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.children import PATIENCE_S, ROOT, SEGPIPE, child
from tests.terminal import in_terminal

ESCAPE = b"\x1b"
LONG = "/data/" + "/".join(["a-folder-with-a-long-name"] * 8) + "/run"  # wider than two lines of 80 columns
RESULTS = [("--version",), ("train", "--help"), ("doctor",)]
"""Commands that print without needing a run: by print, by Typer, by rich."""


def run(*words: str, shell: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command with what the shell makes of its streams; pipefail shows its own exit code."""
    script = f'set -o pipefail; "$@" {shell}'
    return subprocess.run(
        ["bash", "-c", script, "bash", *SEGPIPE, *words],
        capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | environment, timeout=PATIENCE_S,
    )  # fmt: skip


ERRORS = [
    (("show", LONG), 1),
    (("show", "run", LONG), 2),
    (("import", "m.onnx", "--contract", f"{LONG}/contract.toml", "-o", "run"), 1),
    (("frobnicate",), 2),
]


@pytest.mark.parametrize(("words", "code"), ERRORS, ids=["path", "usage", "file", "command"])
def test_an_error_is_the_same_line_in_a_terminal_a_pipe_and_a_notebook(words: tuple[str, ...], code: int) -> None:
    piped = run(*words, shell="")
    terminal = in_terminal(*SEGPIPE, *words)
    notebook = in_terminal(*SEGPIPE, *words, JPY_PARENT_PID="1", TERM="xterm-color")

    line = piped.stderr.encode()
    assert (piped.returncode, line.count(b"\n"), piped.stdout) == (code, 1, "")
    assert line.startswith(b"error: ")
    assert LONG.encode() in line or words == ("frobnicate",)
    assert ESCAPE not in line
    assert terminal == notebook == (code, line)


@pytest.mark.parametrize("words", RESULTS, ids=" ".join)
def test_results_have_no_escape_codes_in_a_pipe_or_a_notebook(words: tuple[str, ...]) -> None:
    piped = run(*words, shell="").stdout.encode()
    code, notebook = in_terminal(*SEGPIPE, *words, JPY_PARENT_PID="1", TERM="xterm-color")

    assert code == 0
    assert ESCAPE not in piped
    assert ESCAPE not in notebook


def test_a_table_is_folded_in_a_terminal_and_one_line_a_row_in_a_pipe_never_cut() -> None:
    script = (sys.executable, "-c", f"from segpipe.console import print_table\nprint_table(['file'], [[{LONG * 3!r}]])")
    piped = subprocess.run(script, capture_output=True, text=True, check=True, cwd=ROOT, timeout=PATIENCE_S).stdout
    _, terminal = in_terminal(*script)

    assert LONG * 3 in piped
    assert LONG * 3 in "".join(terminal.decode().split())


def test_control_characters_in_names_do_not_reach_the_terminal() -> None:
    code, sent = in_terminal(*SEGPIPE, "show", "\x1b]0;owned\x07run")

    assert code == 1
    assert ESCAPE not in sent
    assert rb"\x1b]0;owned\x07run" in sent


@pytest.mark.parametrize("words", RESULTS, ids=" ".join)
def test_a_full_stdout_is_one_line(words: tuple[str, ...]) -> None:
    result = run(*words, shell=">/dev/full")

    assert result.returncode == 1
    assert result.stderr.startswith("error: cannot write to stdout: No space left on device. ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", RESULTS, ids=" ".join)
def test_a_closed_stdout_is_one_line(words: tuple[str, ...]) -> None:
    result = run(*words, shell=">&-")

    assert result.returncode == 1
    assert result.stderr.startswith("error: cannot write to stdout: it is closed. ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", RESULTS, ids=" ".join)
def test_a_reader_that_leaves_is_no_error_to_talk_about(words: tuple[str, ...]) -> None:
    result = run(*words, shell="| true; exit ${PIPESTATUS[0]}")

    assert (result.returncode, result.stderr) in {(141, ""), (0, "")}  # 0: all was written before it left


def test_a_reader_that_has_left_is_the_exit_code_of_sigpipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with child(*SEGPIPE, "models", stdout=writer) as process:
        os.close(writer)
        _, errors = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, errors) == (141, "")


@pytest.mark.parametrize("shell", ["2>&-", "2>/dev/full"])
def test_a_stderr_that_takes_nothing_changes_neither_results_nor_exit_codes(shell: str) -> None:
    good, bad = run("doctor", "--json", shell=shell), run("show", "nowhere", shell=shell)

    assert (good.returncode, bad.returncode) == (0, 1)
    assert good.stdout.startswith("[")
    assert bad.stdout == ""


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}]
)
def test_a_path_is_printed_as_it_is_on_disk_whatever_the_encoding(environment: dict[str, str], tmp_path: Path) -> None:
    made = tmp_path / "ö-路"
    result = subprocess.run(
        [*SEGPIPE, "new", str(made)],
        capture_output=True,
        check=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
        env=os.environ | {"PYTHONIOENCODING": "ascii"} | environment,
    )

    assert result.stdout == os.fsencode(made / "segpipe.toml") + b"\n"


def test_a_name_that_is_not_utf8_is_printed_as_it_is_on_disk(tmp_path: Path) -> None:
    made = os.fsencode(tmp_path) + b"/\xff\xfe"
    result = subprocess.run([*SEGPIPE, "new", made], capture_output=True, check=True, cwd=ROOT, timeout=PATIENCE_S)

    assert result.stdout == made + b"/segpipe.toml\n"


def test_ctrl_c_while_the_command_still_loads_is_one_line() -> None:
    script = """
import os, signal, sys
class Press:
    def find_spec(name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Press)
from segpipe.cli import main
main()
"""
    with child(sys.executable, "-c", script) as process:
        _, errors = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, errors) == (130, "interrupted; the same command goes on from here\n")
