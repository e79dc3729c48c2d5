"""Finds the fewest modules (of an imported graph: nodes) that the release gate needs in FP32, and records how."""

import json
import logging
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segpipe.artifacts import EXPORT, FP32_GRAPH
from segpipe.contract.schema import InstanceContract
from segpipe.errors import GateFailedError, InputError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.opening import any_contract
from stages.config.root import Config
from stages.results.figures import IslandsFigures, require

STAGE = "islands"
VERSION = 3
FILE_NAME = "islands.json"

_log = logging.getLogger(__name__)


def find_islands(rundir: RunDirectory, config: Config, base: Path) -> str:
    """The `export.fp32_islands=[...]` that makes the FP16 hop pass; searched once for a graph and its data."""
    from stages.data import fingerprint

    if isinstance(any_contract(rundir), InstanceContract):
        raise InputError(
            "islands are not searched for the task 'instances' yet", hint="name them in export.fp32_islands by hand"
        )
    graph = rundir.artifact(EXPORT, FP32_GRAPH)
    data = fingerprint(config, base, rundir.path / ".fingerprints.json")
    inputs = {rundir.relative(graph): rundir.recorded_sha256(graph), "data": data}
    params = {"stage_version": VERSION, **config.shapes(), **config.sections("validate")}
    with rundir.step(STAGE, inputs, params) as step:
        if step.stale:
            from stages.graphs.islands import PROBES  # onnx loads here
            from stages.validate.explaining.search import search
            from stages.validate.explaining.trials import Bench

            judge = Bench.of_run(rundir, config, base).judge
            first = tuple(name for name in config.export.fp32_islands if name not in PROBES)
            trials = search(judge, first, lambda trial: _log.info("islands: %s", trial.line()))
            found = [{**asdict(trial), "excess": _json(trial.excess)} for trial in trials]
            step.path(FILE_NAME).write_text(json.dumps(found, indent=2))
            kept: dict[str, Any] = {"failed": trials[-1].failed} if trials[-1].failed else {}
            step.figures = IslandsFigures(islands=trials[-1].islands, trials=len(trials), **kept).as_record()
    return _setting(rundir)


def _setting(rundir: RunDirectory) -> str:
    """What was found, as a setting; where that is not enough, an error that keeps it."""
    found = require(IslandsFigures, rundir)
    setting = f"export.fp32_islands={json.dumps(found.islands, ensure_ascii=False)}"  # TOML has no surrogate pairs
    if found.failed:
        raise GateFailedError(
            f"no FP32 islands make the FP16 hop pass; the best that was tried, {setting}: {'; '.join(found.failed)}",
            hint=f"build with build.precision = 'fp32'; every trial is in {rundir.artifact(STAGE, FILE_NAME)}",
        )
    _log.info("islands: %s (keep it: write it into segpipe.toml)", setting)
    return setting


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None
