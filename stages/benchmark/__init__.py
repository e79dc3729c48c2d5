"""Stage `benchmark`: how long a frame takes here, beside what a user would have otherwise."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segpipe.artifacts import BUILD, CHECKPOINT, EXPORT, FP32_GRAPH
from segpipe.installed import versions
from segpipe.ranking import FILE_NAME as RANKING
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.step import Step
from segpipe.runtime.cuda.driver_library import gpus
from segpipe.runtime.opening import engines_of
from stages.benchmark.machine import machine
from stages.config.root import Config
from stages.environment import COMPUTING
from stages.models import factory_inputs
from stages.results.figures import BenchmarkFigures

if TYPE_CHECKING:
    from stages.benchmark.measure import Measurements

STAGE = "benchmark"
VERSION = 3
_PACKAGES = (*COMPUTING, "cuda-bindings", "pycuda")

_log = logging.getLogger(__name__)


class _CutShort(Exception):  # noqa: N818 - no error: carries what was measured past the step that must not commit it
    def __init__(self, measured: "Measurements") -> None:
        super().__init__()
        self.measured = measured


def run(rundir: RunDirectory, config: Config, base: Path) -> Path:
    """Measure this run's deployed network, unless the same one was measured on this machine before."""
    from stages.data import fingerprint

    inputs: dict[str, str] = {rundir.relative(path): rundir.recorded_sha256(path) for path in _artifacts(rundir)}
    inputs |= factory_inputs(rundir, config.model)
    inputs["data"] = fingerprint(config, base, rundir.path / ".fingerprints.json")
    params = {"stage_version": VERSION, "machine": _here(), **config.sections("data", "benchmark")}
    try:
        with rundir.step(STAGE, inputs, params) as step:
            if step.stale:
                from stages.benchmark.measure import measure

                measured = measure(rundir, config, base)
                if measured.report.partial:
                    raise _CutShort(measured)
                _keep(step, measured, rundir)
    except _CutShort as cut:  # kept under a key of its own, so that the next command measures again
        with rundir.step(STAGE, inputs, {**params, "cut_short_utc": datetime.now(UTC).isoformat()}) as step:
            _keep(step, cut.measured, rundir)
        _log.warning("benchmark: cut short; what was measured is kept, marked partial: `segpipe report` shows it")
        raise KeyboardInterrupt from None
    return rundir.artifact(STAGE, "report.json")


def _here() -> dict[str, Any]:
    """The machine and the packages that figures belong to: on others they are measured anew."""
    return {**machine().model_dump(exclude={"gpu"}), "gpus": [gpu.name for gpu in gpus()], **versions(*_PACKAGES)}


def _artifacts(rundir: RunDirectory) -> list[Path]:
    """What the figures are of. An imported run has no checkpoint, a run may be without engines and verdicts."""
    stages = rundir.manifest.stages
    names = [("train", CHECKPOINT)] if "train" in stages else []
    names += [(EXPORT, FP32_GRAPH)]
    names += [(BUILD, name) for name in engines_of(rundir)]
    names += [("validate", "verdicts.json")] if "validate" in stages else []
    return [rundir.artifact(stage, name) for stage, name in names]


def _keep(step: Step, measured: "Measurements", rundir: RunDirectory) -> None:
    from stages.benchmark.ranked import ranking_of

    step.path("report.json").write_text(measured.report.model_dump_json(indent=2) + "\n")
    step.path("samples.csv").write_text(measured.samples_csv())
    step.path("frames.png").write_bytes(measured.sheet)
    step.path(RANKING).write_text(ranking_of(measured.report, rundir).model_dump_json(indent=2) + "\n")
    step.contract_sha256 = rundir.manifest.contract_sha256
    step.figures = _figures(measured).as_record()
    step.environment |= versions(*_PACKAGES)


def _figures(measured: "Measurements") -> BenchmarkFigures:
    report = measured.report
    ours = report.headline()
    more: dict[str, Any] = {"doubts": report.doubts} if report.doubts else {}
    if report.partial:
        more["partial"] = True
    for ratio in report.ratios:
        if ratio.slow == "PyTorch eager FP32":
            more["faster_than_eager"] = (ratio.ratio, ratio.low, ratio.high)
    return BenchmarkFigures(p50_ms=ours.latency.p50_ms if ours and ours.latency else None, **more)
