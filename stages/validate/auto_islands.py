"""Finds the fewest modules (of an imported graph: nodes) that the release gate needs in FP32, and records how."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from segpipe.errors import GateFailedError
from segpipe.rundir.directory import RunDirectory
from stages.config.root import Config

STAGE = "islands"
VERSION = 3
FILE_NAME = "islands.json"
MAX_ISLANDS = 12  # more, and FP32 is the honest answer

Islands = tuple[str, ...]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One set of islands: the limits that failed, and the module to add."""

    islands: Islands
    failed: tuple[str, ...]
    proposal: str = ""
    why: str = ""


Judge = Callable[[Islands], Trial]
"""Holds the FP16 hop with these islands to the gate's limits."""


def find_islands(rundir: RunDirectory, config: Config, base: Path, open_bench: Callable[[], Judge]) -> str:
    """The `export.fp32_islands=[...]` that makes the FP16 hop pass; searched once for a graph and its data."""
    from stages.data import fingerprint

    graph = rundir.artifact("export", "model.onnx")
    data = fingerprint(config, base, rundir.path / ".fingerprints.json")
    inputs = {rundir.relative(graph): rundir.recorded_sha256(graph), "data": data}
    params = {"stage_version": VERSION, **config.shapes(), **config.sections("validate")}
    with rundir.step(STAGE, inputs, params) as step:
        if step.stale:
            from stages.graphs.islands import PROBES  # onnx loads here

            trials = search(open_bench(), tuple(name for name in config.export.fp32_islands if name not in PROBES))
            step.path(FILE_NAME).write_text(json.dumps([asdict(trial) for trial in trials], indent=2))
            step.figures = {"islands": trials[-1].islands, "trials": len(trials)}
    islands = json.dumps(rundir.record(STAGE).figures["islands"], ensure_ascii=False)  # TOML has no surrogate pairs
    setting = f"export.fp32_islands={islands}"
    _log.info("islands: %s (keep it: write it into segpipe.toml)", setting)
    return setting


def search(judge: Judge, first: Islands = ()) -> list[Trial]:
    """Add what the first divergence names until the gate passes, then take away what it can do without."""
    trials = [judge(first)]
    while trials[-1].failed:
        trials.append(judge(_grown(trials)))
    kept = trials[-1]
    for island in kept.islands if len(kept.islands) > 1 else ():
        without = tuple(name for name in kept.islands if name != island)
        trials.append(judge(without))
        if not trials[-1].failed:
            kept = trials[-1]
    if trials[-1] is not kept:
        trials.append(kept)
    return trials


def _grown(trials: list[Trial]) -> Islands:
    """The last islands and the proposed one; an island inside the new one goes."""
    last = trials[-1]
    grown = (*(name for name in last.islands if not name.startswith(f"{last.proposal}.")), last.proposal)
    if not last.proposal or last.proposal in last.islands or len(grown) > MAX_ISLANDS:
        raise GateFailedError(
            f"no FP32 islands make the FP16 hop pass; with {list(last.islands)}: {'; '.join(last.failed)}; {last.why}",
            hint="build with build.precision = 'fp32'",
        )
    return tuple(grown)
