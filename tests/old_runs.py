"""A run, a bundle of it and a half-done training as version 09d22e2 left them: data that every later version reads.

`run` holds every stage (a network of width 1, an engine of TensorRT for RTX for 8.9), `bundle` is `segpipe bundle` of
it, `half-done` was killed after the first of three epochs. Never make them again with newer code.
"""

import json
import tarfile
from pathlib import Path

from segpipe.rundir import manifest
from stages.build.kernels import kernels_key
from stages.build.target import describe_target

ARCHIVE = Path(__file__).parent / "data" / "runs-of-09d22e2.tar.xz"


def unpack(name: str, directory: Path) -> Path:
    """One of the three, as a run directory of one's own."""
    with tarfile.open(ARCHIVE) as archive:
        members = [member for member in archive.getmembers() if member.name.split("/")[0] == name]
        archive.extractall(directory, members, filter="data")
    return directory / name


def as_built_here(run: Path) -> Path:
    """The run as if its engine had been built with this machine's TensorRT and kernel compiler, which the key holds."""
    path = run / manifest.FILE_NAME
    content = json.loads(path.read_text())
    record = content["stages"]["build"]
    params = record["params"]
    source, compiler = params["kernels"].partition("-")[0], kernels_key().partition("-")[2]
    params |= {"target": {"tensorrt-rtx": describe_target("tensorrt-rtx")}, "kernels": f"{source}-{compiler}"}
    record["key"] = manifest.stage_key(record["inputs"], params)
    path.write_text(json.dumps(content))
    return run
