"""A bundle: the part of a run directory that the runtime needs, as a run directory of its own that `open` takes."""

import shutil
from pathlib import Path

from segpipe import manifest, verdict
from segpipe.errors import ArtifactMissingError, InputError
from segpipe.manifest import Manifest, StageRecord
from segpipe.rundir import RunDirectory
from segpipe.storage import explained_refusals, sync_directory, sync_file

_EXPORT = ("contract.json", "palette.json", "model.onnx")


def write_bundle(run: RunDirectory, out: Path) -> Path:
    """Copy contract, graph, engines, kernels and verdicts; no checkpoint, no image, no path of this machine.

    The manifest is written last: without it the folder is no bundle.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already", hint="name a new folder, or empty it")
    stages = {stage: _reduced(run.record(stage), names) for stage, names in _wanted(run).items()}
    with explained_refusals(str(out)):
        out.mkdir(parents=True, exist_ok=True)
        for stage, record in stages.items():
            folder = out / record.path
            folder.mkdir(parents=True)
            for name in record.outputs:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(run.artifact(stage, name), folder / name)
                sync_file(folder / name)
            sync_directory(folder)
        manifest.save(out, Manifest(contract_sha256=run.manifest.contract_sha256, stages=stages))
    return out


def _wanted(run: RunDirectory) -> dict[str, tuple[str, ...]]:
    """Names of the files by stage. Engines and kernels are all that build makes; a run on the CPU has none."""
    if verdict.STAGE not in run.manifest.stages:
        raise ArtifactMissingError(f"{run.path} was not validated", hint=f"run `segpipe validate {run.path}`")
    wanted = {"export": _EXPORT, verdict.STAGE: (verdict.FILE_NAME,)}
    if "build" in run.manifest.stages:
        wanted["build"] = tuple(run.record("build").outputs)
    return wanted


def _reduced(record: StageRecord, names: tuple[str, ...]) -> StageRecord:
    """The record of a stage with some of its outputs; its inputs lie in the run that made it."""
    outputs = {name: output for name, output in record.outputs.items() if name in names}
    return record.model_copy(update={"outputs": outputs, "inputs": {}, "figures": {}})
