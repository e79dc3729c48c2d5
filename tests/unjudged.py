"""A run without a verdict on a backend, and the commands that messages about it name."""

import re
import shlex
from pathlib import Path
from typing import Literal

from segpipe.rundir.directory import RunDirectory
from segpipe.verdict import FILE_NAME, STAGE, VERDICTS, stored_verdicts
from tests.trained import replace_output

CPU, ENGINE, GPU = "onnxruntime-cpu", "model.rtx.engine", "Some GPU"
RTX: Literal["tensorrt-rtx"] = "tensorrt-rtx"


def without_verdict(run: Path, backend: str) -> None:
    """The gate could not open this backend."""
    rundir = RunDirectory(run)
    changes = {"status": "not judged", "device": "none", "reasons": ("not run here: there is none. use another",)}
    entries = [e.model_copy(update=changes) if e.backend == backend else e for e in stored_verdicts(rundir)]
    replace_output(rundir, STAGE, FILE_NAME, VERDICTS.dump_json(tuple(entries)))


def commands(said: str) -> list[list[str]]:
    """The segpipe commands in a message."""
    return [shlex.split(found)[1:] for found in re.findall("`(segpipe [^`]+)`", said)]
