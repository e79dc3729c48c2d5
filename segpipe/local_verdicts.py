"""Where verdicts lie that were made beside the artifact: files of their own, which no copy of a bundle replaces."""

import errno
import os
import re
from pathlib import Path

from segpipe.errors import StorageError
from segpipe.rundir.storage import explained_refusals, write_atomically

INDEX, ARRAYS, FRAMES, REPORT = "reference.json", "reference.npz", "frames.npz", "report.json"
REFERENCE = (INDEX, ARRAYS, FRAMES, REPORT)
"""Outputs of `validate` that judging needs where PyTorch is not."""

FOLDER = "local-verdicts"
VARIABLE = "SEGPIPE_LOCAL_VERDICTS"
"""Environment variable that names another folder, for runs and bundles that cannot be written."""

_SUFFIX = ".verdict.json"
_NAMED_BEFORE = re.compile(r"(onnxruntime|tensorrt)-[a-z0-9-]+-[0-9a-f]{12}\.json")
_UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}


def prepare(run: Path) -> Path:
    """The folder that takes verdicts about this run, made where it is missing; asked for before anything is judged."""
    folder = _other() or run / FOLDER
    try:
        with explained_refusals(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "it cannot be written", str(folder))
    except StorageError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _UNWRITABLE:
            raise
        hint = f"set {VARIABLE} to a folder that can be written, for this command and for what opens {run}"
        raise StorageError(error.message, hint=hint) from error
    return folder


def write(run: Path, name: str, data: bytes) -> Path:
    """Keep one verdict; a newer one of the same name replaces it."""
    path = prepare(run) / f"{name}{_SUFFIX}"
    write_atomically(path, data)
    return path


def is_named_as_one(path: Path) -> bool:
    """Whether segpipe gives such names to verdicts, or did before; whatever else cannot be read is somebody else's."""
    return path.name.endswith(_SUFFIX) or _NAMED_BEFORE.fullmatch(path.name) is not None


def files(run: Path) -> list[Path]:
    """What may be verdicts about this run and, in the folder that the variable names, about others: their content
    tells."""
    folders = filter(None, (run / FOLDER, _other()))
    return [path for folder in folders for path in sorted(folder.glob("*.json"))]


def _other() -> Path | None:
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None
