"""A bundle: the part of a run directory that the runtime needs, as a run directory of its own that `open` takes."""

import logging
from pathlib import Path

from segpipe import local_verdicts, ranking, verdict
from segpipe.artifacts import BUILD, END_TO_END_GRAPH, EXPORT, FP32_GRAPH, INT8_CPU_GRAPH
from segpipe.errors import ArtifactDamagedError, ArtifactMissingError, InputError, word
from segpipe.rundir import manifest
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.manifest import Manifest, Output, StageRecord
from segpipe.rundir.storage import explained_refusals, sha256_of_bytes, write_atomically
from segpipe.runtime.built import needed
from segpipe.runtime.opening import engines_of
from segpipe.verdict import Verdict

_EXPORT = ("contract.json", "palette.json", FP32_GRAPH, INT8_CPU_GRAPH, END_TO_END_GRAPH)
"""Those that the run has."""

_log = logging.getLogger(__name__)


def write_bundle(run: RunDirectory, out: Path, with_reference: bool = False) -> Path:
    """Copy contract, graph, engines, kernels and verdicts; no checkpoint, no path of this machine.

    `with_reference`: also the stored reference, whose frames are validation images, so that artifacts can be judged
    where the bundle goes. The manifest is written last: without it the folder is no bundle.
    """
    carried = copy_parts(run, out, with_reference)
    if unjudged := _unjudged_engines(run, carried):
        _log.warning("%s", _plain(unjudged, run, out if with_reference else None))
    return out


def copy_parts(run: RunDirectory, out: Path, with_reference: bool = False) -> tuple[Verdict, ...]:
    """The same for whoever knows what it is for: nothing is said of engines. Returns the verdicts that it carries."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already", hint="name a new folder, or empty it")
    carried = _verdicts_to_carry(run)
    verdicts = verdict.VERDICTS.dump_json(carried, indent=2)
    stages = {stage: _reduced(run.record(stage), names) for stage, names in _wanted(run, with_reference).items()}
    stages[verdict.STAGE].outputs[verdict.FILE_NAME] = _described(verdicts)
    with explained_refusals(str(out)):
        out.mkdir(parents=True, exist_ok=True)
        for stage, record in stages.items():
            for name, output in record.outputs.items():
                own = (stage, name) == (verdict.STAGE, verdict.FILE_NAME)
                _write(out / record.path / name, verdicts if own else _vouched(run, stage, name, output))
        manifest.save(out, Manifest(contract_sha256=run.manifest.contract_sha256, stages=stages))
    return carried


def _wanted(run: RunDirectory, with_reference: bool) -> dict[str, tuple[str, ...]]:
    """Names of the files by stage. Engines and kernels are all that build makes; a run on the CPU has none."""
    if verdict.STAGE not in run.manifest.stages:
        raise ArtifactMissingError(f"{run.path} was not validated", hint=run.how_to_make(verdict.STAGE))
    reference = local_verdicts.REFERENCE if with_reference else ()
    if missing := [name for name in reference if name not in run.record(verdict.STAGE).outputs]:
        raise ArtifactMissingError(
            f"{run.path} holds no stored reference ({verdict.STAGE}/{missing[0]})", hint=run.how_to_make(verdict.STAGE)
        )
    wanted = {EXPORT: _EXPORT, verdict.STAGE: (verdict.FILE_NAME, *reference)}
    if BUILD in run.manifest.stages:
        wanted[BUILD] = tuple(run.record(BUILD).outputs)
    if _has_ranking(run):
        wanted[ranking.STAGE] = (ranking.FILE_NAME,)
    return wanted


def _lacks_reference(run: RunDirectory) -> bool:
    """Whether it is itself a bundle that was written without the reference."""
    return run.manifest.is_bundle and not set(local_verdicts.REFERENCE) <= set(run.record(verdict.STAGE).outputs)


def _has_ranking(run: RunDirectory) -> bool:
    """Whether there is one to carry. It is a hint: one that is gone or damaged keeps nothing from being deployed."""
    record = run.manifest.stages.get(ranking.STAGE)
    if record is None or ranking.FILE_NAME not in record.outputs:
        return False
    try:
        run.artifact_bytes(ranking.STAGE, ranking.FILE_NAME)
    except (ArtifactMissingError, ArtifactDamagedError) as error:
        _log.warning("bundle: the ranking is left out: %s", error)
        return False
    return True


def _reduced(record: StageRecord, names: tuple[str, ...]) -> StageRecord:
    """The record of a stage with some of its outputs; its inputs lie in the run that made it."""
    outputs = {name: output for name, output in record.outputs.items() if name in names}
    return record.model_copy(update={"outputs": outputs, "inputs": {}, "figures": needed(record.figures)})


def _vouched(run: RunDirectory, stage: str, name: str, output: Output) -> bytes:
    """A file's bytes, of the very state that the bundle's record is of."""
    data = run.artifact_bytes(stage, name)
    if _described(data) != output:
        raise InputError(f"{run.path} was changed while it was read", hint="run the same command again")
    return data


def _described(data: bytes) -> Output:
    return Output(sha256=sha256_of_bytes(data), size_bytes=len(data))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)


def _verdicts_to_carry(run: RunDirectory) -> tuple[Verdict, ...]:
    """The gate's and those made beside the run. What failed beside it loses its verdict, and can be judged anew where
    the bundle goes, for a failure of the gate would overrule every later pass."""
    own = verdict.stored_verdicts(run)
    local = verdict.all_verdicts(run)[len(own) :]
    kept = [entry for entry in own if not any(entry.is_about(newer) for newer in local)]
    return (*kept, *(entry for entry in local if entry.status == "passed"))


def _unjudged_engines(run: RunDirectory, verdicts: tuple[Verdict, ...]) -> list[str]:
    """Engines that passed on no GPU."""
    passed = {entry.artifact_sha256 for entry in verdicts if entry.status == "passed"}
    return [name for name, output in engines_of(run).items() if output.sha256 not in passed]


def _plain(engines: list[str], run: RunDirectory, judgeable: Path | None) -> str:
    """What keeps the engines from being opened, and the commands that change it."""
    bundle = word(judgeable) if judgeable else "DIR"
    source = "RUN" if _lacks_reference(run) else word(run.path)
    again = "" if judgeable else f"make the bundle with `segpipe bundle {source} -o DIR --with-reference`, then "
    return (
        f"bundle: the runtime will refuse {', '.join(engines)}, which passed the gate on no GPU: "
        f"{again}run `segpipe validate {bundle} --hop engine` on the GPU that it is for"
    )
