"""A process made to be killed: commits chained steps to a run directory, generation after generation."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from segpipe.rundir.directory import RunDirectory

_DESCRIPTOR = {"os.remove": 1, "os.rmdir": 1, "shutil.rmtree": 1}
"""Where these operations are given the directory that their path starts from."""
_OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}


def work(path: Path, generation: int) -> None:
    """Two chained steps; the second reads the first's output."""
    run = RunDirectory(path)
    with run.writing():
        with run.step("train", {}, {"generation": generation}) as step:
            if step.stale:
                step.scratch().mkdir(exist_ok=True)
                (step.scratch() / "point").write_bytes(b"half")
                step.path("out.bin").write_bytes(f"train {generation} ".encode() * 50_000)
        with run.step("export", [run.artifact("train", "out.bin")], {"generation": generation}) as step:
            if step.stale:
                step.path("out.bin").write_bytes(f"export {generation} ".encode() * 500)
                step.path("picture.png").write_bytes(f"export {generation}".encode())


def die_at(count: int, path: Path) -> None:
    """Kill this process before its `count`-th file operation inside the run directory."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in _OPERATIONS and str(path) in _whole(event, arguments):
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _whole(event: str, arguments: tuple[Any, ...]) -> str:
    """The path of an operation; one relative to a directory's descriptor is made whole."""
    named = str(arguments[0])
    descriptor = arguments[_DESCRIPTOR[event]] if event in _DESCRIPTOR else None
    return named if descriptor in {None, -1} else f"{Path(f'/proc/self/fd/{descriptor}').readlink()}/{named}"


def obey(path: Path, generation: int, once: bool, operation: int) -> None:
    """What one process to be killed does: one pass, or passes without an end."""
    if operation:
        die_at(operation, path)
    print("working", os.getpid(), flush=True)
    work(path, generation)
    while not once:
        generation += 1
        work(path, generation)


def serve() -> None:
    """Each line of stdin is an order, obeyed by a fork: none has to import anything. Then its exit code is told."""
    for line in sys.stdin:
        path, generation, once, operation = json.loads(line)
        process = os.fork()
        if process == 0:
            obey(Path(path), generation, once, operation)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
