"""A model repository on disk: one folder a model, with its config and its versions. A version is whole or not there."""

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from segpipe.bundle import write_bundle
from segpipe.contract.schema import Contract
from segpipe.errors import InputError, word
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.storage import explained_refusals, read_text_file, write_atomically
from segpipe.runtime.opening import run_contract
from segpipe.triton.bare import bare_models
from segpipe.triton.config import FRAME, MASK, Copies, ModelConfig, Tensor, known_by

_log = logging.getLogger(__name__)

CONFIG = "config.pbtxt"
_PART = ".segpipe-version"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_MODEL = '''"""Written by `segpipe triton`: the server's Python needs the same segpipe."""

from segpipe.triton.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
_WARM_UP_SIDE = 512  # where frames keep their size, as `Segmenter.warm_up` has it


@dataclass(frozen=True)
class Request:
    """What to write, and how the server is to run it."""

    name: str = "segpipe"
    backend: str = "cpu"
    """What runs the network, as `--backend` takes it."""
    threads: int = 0
    """Of each instance on a CPU; 0: one a core."""
    instances: Copies = field(default_factory=Copies)
    bare: bool = False
    """Also models of the network alone."""

    def config(self, contract: Contract) -> ModelConfig:
        """Of the model that takes frames."""
        return ModelConfig(
            name=self.name,
            backend="python",
            inputs=(Tensor(FRAME, contract.dtype, (-1, -1, contract.channels)),),
            outputs=(Tensor(MASK, contract.mask_dtype, (-1, -1)),),
            instances=self.instances,
            contract=contract,
            warm_up=contract.network_size or contract.place(_WARM_UP_SIDE, _WARM_UP_SIDE).canvas,
            parameters=(("backend", self.backend), ("threads", str(self.threads))),
        )


def write_repository(run: RunDirectory, out: Path, request: Request) -> list[Path]:
    """Write each model's next version into the repository `out`; returns the versions' folders.

    A model that is there already keeps its config.pbtxt, and gets a version only of the same contract.
    """
    if not _NAME.fullmatch(request.name):
        raise InputError(
            f"a model cannot be called {request.name!r:.120}", hint="use letters, digits, '.', '_' and '-' in --name"
        )
    contract = run_contract(run)
    whole = request.config(contract)
    bare = list(bare_models(run, whole)) if request.bare else []
    for config in (whole, *(config for config, _, _ in bare)):
        _require_next_version(out / config.name, config)
    written = [_write_version(out, whole, {"model.py": _MODEL.encode()}, run)]
    return written + [_write_version(out, config, {name: data}) for config, name, data in bare]


def _require_next_version(folder: Path, config: ModelConfig) -> None:
    """Refuse a folder that is somebody's, or a model of another contract: its clients would be told wrong classes."""
    if not folder.exists():
        return
    if not (folder / CONFIG).is_file():
        if folder.is_dir() and not any(folder.iterdir()):
            return
        raise InputError(f"{folder} is there and holds no {CONFIG}", hint="give another --name, or move it")
    written = read_text_file(folder / CONFIG, InputError).splitlines(keepends=True)
    if not {*known_by(config)} <= {*written}:
        raise InputError(
            f"{folder} is a model of another contract or backend", hint=f"give another --name, or delete {word(folder)}"
        )


def _write_version(out: Path, config: ModelConfig, files: Mapping[str, bytes], run: RunDirectory | None = None) -> Path:
    """Files and, where a run is given, its bundle; written aside and renamed."""
    folder, text = out / config.name, config.to_text()
    part = folder / _PART
    with explained_refusals(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        if part.is_dir() and not part.is_symlink():  # a kill left it
            shutil.rmtree(part)
        part.mkdir()
        for name, data in files.items():
            write_atomically(part / name, data)
        if run is not None:
            write_bundle(run, part / "bundle")
        _write_config(folder / CONFIG, text)
        version = folder / str(1 + max((int(name) for name in _versions(folder)), default=0))
        part.rename(version)
    return version


def _versions(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.isascii() and path.name.isdecimal()]


def _write_config(path: Path, text: str) -> None:
    """What somebody tuned by hand stays."""
    if not path.exists():
        write_atomically(path, text.encode())
    elif read_text_file(path, InputError) != text:
        _log.warning("%s is kept, though these options would write another: delete it to have it written anew", path)
