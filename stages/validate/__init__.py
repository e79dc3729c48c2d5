"""Stage `validate`, the release gate: is what will be deployed still the network that was trained?"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segpipe.contract.schema import read_any
from segpipe.errors import DataError, GateFailedError
from segpipe.installed import versions
from segpipe.local_verdicts import REPORT
from segpipe.processor import processor
from segpipe.rundir.directory import TOML_NAME, RunDirectory
from segpipe.runtime.cuda.driver_library import gpus
from segpipe.verdict import FILE_NAME, STAGE, VERDICTS
from stages.config import user_code
from stages.config.root import Config, FolderData
from stages.environment import COMPUTING, driver
from stages.models import factory_inputs
from stages.results.figures import ValidateFigures, require
from stages.table import sources

VERSION = 4
_BESIDE = (".json", ".csv", ".png", ".html")
"""Figures, pictures and pages that lie beside networks, engines and kernels: they change no verdict."""

_log = logging.getLogger(__name__)


def run(rundir: RunDirectory, config: Config, base: Path) -> Path:
    """Compare every hop with the reference, unless the same artifacts were judged on the same images before."""
    from stages.data import fingerprint

    require_frames(rundir, config, base)
    artifacts = [path for stage in sources(STAGE, rundir.manifest.stages) for path in _artifacts(rundir, stage)]
    data = fingerprint(config, base, rundir.path / ".fingerprints.json")
    inputs: dict[str, str] = {rundir.relative(path): rundir.recorded_sha256(path) for path in artifacts}
    inputs |= {"data": data, **factory_inputs(rundir, config.model)}
    params = {"stage_version": VERSION, "machine": machine(), **config.sections("data", "validate"), **config.shapes()}
    params |= config.chosen_deploy()
    with rundir.step(STAGE, inputs, params) as step:
        if step.stale:
            from stages.validate.judging.gate import judge_run

            judgement = judge_run(rundir, config, base)
            step.path(REPORT).write_text(judgement.report.model_dump_json(indent=2))
            step.path(FILE_NAME).write_bytes(VERDICTS.dump_json(judgement.verdicts, indent=2))
            for name, content in judgement.files.items():
                step.path(name).write_bytes(content)
            step.contract_sha256 = rundir.manifest.contract_sha256
            step.figures = judgement.figures.as_record()
            step.environment |= versions(*COMPUTING)
            for line in judgement.report.summary():
                _log.info("%s", line)
    refuse_failures(rundir)
    return rundir.artifact(STAGE, REPORT)


def require_frames(rundir: RunDirectory, config: Config, base: Path) -> None:
    """Who imports a graph may have no images at all: then say what to write where."""
    if "import" not in rundir.manifest.stages:
        return
    contract = read_any(rundir.artifact_bytes("import", "contract.json"), "import")
    from stages.data import labels_of  # Pillow loads here
    from stages.data.agreeing import refuse_other_classes

    refuse_other_classes(contract, labels_of(config), str(rundir.path / TOML_NAME))
    if isinstance(config.data, FolderData) and not (base / config.data.root).is_dir():
        raise DataError(
            f"an imported network is judged on images, and [data] root = '{config.data.root}' is not a folder",
            hint=f'in {rundir.path / TOML_NAME}, under [data], write root = "FOLDER", images = "images" and '
            'masks = "masks": FOLDER/images holds frames, FOLDER/masks a PNG of class numbers with the name of each, '
            'or masks = "" without any; '
            'under [export] write fp32_islands = "auto"',
        )


def refuse_failures(rundir: RunDirectory) -> None:
    """A failed gate stays failed when nothing changed. One line a failed limit, then what it looks like."""
    figures = require(ValidateFigures, rundir)
    if not figures.failed:
        return
    for line in figures.failed:
        _log.error("%s", line)
    for line in (*figures.suspicions, *figures.diverges):
        _log.error("-> %s", line)
    raise GateFailedError(
        f"the release gate failed: {named(figures.failed)}",
        hint=f"look at {rundir.path / rundir.record(STAGE).path / 'gate.html'}",
    )


def named(failed: Sequence[str]) -> str:
    """Failed limits without their figures: `hop 'onnx': agreement, iou_drop`."""
    limits: dict[str, list[str]] = {}
    for line in failed:
        hop, _, rest = line.partition(": ")
        limits.setdefault(hop, []).append(rest.split()[0])
    return "; ".join(f"{hop}: {', '.join(names)}" for hop, names in limits.items())


def machine() -> dict[str, Any]:
    """What decides which hops run here and what they give: processor, GPUs and their driver, versions."""
    names = [gpu.name for gpu in gpus()]
    cards = {"gpus": names, "driver": driver()} if names else {}
    return {"processor": processor(), **cards, **versions(*COMPUTING)}


def explain_run(rundir: RunDirectory, config: Config, base: Path) -> list[str]:
    """Where each hop parts from the reference, also of hops that pass."""
    from stages.validate.judging.gate import judge_run

    user_code.look_beside(rundir.path)
    report = judge_run(rundir, config, base, explain=True).report
    return [line for hop in report.hops.values() for line in (*hop.suspicions, *hop.diverges)]


def _artifacts(rundir: RunDirectory, stage: str) -> list[Path]:
    """The files of a stage that are judged."""
    names = [name for name in rundir.record(stage).outputs if not name.endswith(_BESIDE)]
    return [rundir.artifact(stage, name) for name in names]
