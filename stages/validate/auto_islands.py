"""Finds the fewest modules (of an imported graph: nodes) that the release gate needs in FP32, and records how."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

from segpipe.artifacts import EXPORT, FP32_GRAPH
from segpipe.rundir.directory import RunDirectory
from stages.config.root import Config
from stages.results.figures import IslandsFigures, require

STAGE = "islands"
VERSION = 3
FILE_NAME = "islands.json"

_log = logging.getLogger(__name__)


def find_islands(rundir: RunDirectory, config: Config, base: Path) -> str:
    """The `export.fp32_islands=[...]` that makes the FP16 hop pass; searched once for a graph and its data."""
    from stages.data import fingerprint

    graph = rundir.artifact(EXPORT, FP32_GRAPH)
    data = fingerprint(config, base, rundir.path / ".fingerprints.json")
    inputs = {rundir.relative(graph): rundir.recorded_sha256(graph), "data": data}
    params = {"stage_version": VERSION, **config.shapes(), **config.sections("validate")}
    with rundir.step(STAGE, inputs, params) as step:
        if step.stale:
            from stages.graphs.islands import PROBES  # onnx loads here
            from stages.validate.explaining.search import search
            from stages.validate.explaining.trials import Bench

            judge = Bench(rundir, config, base).judge
            trials = search(judge, tuple(name for name in config.export.fp32_islands if name not in PROBES))
            step.path(FILE_NAME).write_text(json.dumps([asdict(trial) for trial in trials], indent=2))
            step.figures = IslandsFigures(islands=trials[-1].islands, trials=len(trials)).as_record()
    islands = json.dumps(require(IslandsFigures, rundir).islands, ensure_ascii=False)  # TOML has no surrogate pairs
    setting = f"export.fp32_islands={islands}"
    _log.info("islands: %s (keep it: write it into segpipe.toml)", setting)
    return setting
