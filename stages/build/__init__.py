"""Stage `build`: ONNX -> TensorRT engines, the truth about their precision, and the kernels that run beside them."""

import logging
from pathlib import Path

from segpipe.artifacts import BUILD as STAGE
from segpipe.artifacts import EIGHT_BITS, EXPORT, held_by
from segpipe.contract.schema import FrameContract
from segpipe.errors import ConfigError, word
from segpipe.rundir.directory import RunDirectory
from stages.build.kernels import kernels_key
from stages.build.target import GRAPHS, describe_target, wanted_engines
from stages.config.root import Config, EnginePrecision
from stages.results.quantisation import FILE_NAME

VERSION = 2

_log = logging.getLogger(__name__)


def run(rundir: RunDirectory, config: Config, _base: Path) -> list[Path]:
    """Build an engine for every target, unless engines with the same key are already there.

    Where no GPU does what the contract asks for, the stage is there and holds nothing: none would run them.
    """
    narrow = [precision for precision in config.build.precisions if precision in EIGHT_BITS]
    for precision in narrow:
        _require_graph(rundir, precision)
    graphs = [rundir.artifact(EXPORT, GRAPHS[precision]) for precision in config.build.precisions]
    reports = [rundir.artifact(EXPORT, "precision.json")]
    if narrow:
        reports.append(rundir.artifact(EXPORT, FILE_NAME))
    here = not config.build.compute_capabilities
    target = {flavour: describe_target(flavour, here) for flavour in config.build.targets}
    contract = FrameContract.from_json(rundir.artifact_bytes(EXPORT, "contract.json"), EXPORT)
    params = {"stage_version": VERSION, "target": target, "kernels": kernels_key(), **config.sections("build")}
    with rundir.step(STAGE, [*graphs, *reports], params) as step:
        if step.stale and contract.only_on_host:
            step.contract_sha256 = contract.sha256
        elif step.stale:
            from stages.build.engines import build_engines

            built = build_engines(rundir, config.build)
            for name, data in (built.engines | built.kernels).items():
                step.path(name).write_bytes(data)
            step.contract_sha256 = built.contract_sha256
            step.figures = built.figures
            step.environment |= {flavour: ", ".join(what.values()) for flavour, what in target.items()}
    if contract.only_on_host:
        _tell_what_runs(rundir, contract)
        return []
    return [rundir.artifact(STAGE, wanted.row.file) for wanted in wanted_engines(config.build)]


def _require_graph(rundir: RunDirectory, precision: EnginePrecision) -> None:
    if GRAPHS[precision] not in rundir.record(EXPORT).outputs:
        setting = "compress.fp8 = true" if precision == "fp8" else 'compress.int8 = "ptq"'
        raise ConfigError(
            f"build.precision names {precision}, and the export holds no {GRAPHS[precision]}",
            hint=f"set {setting}, then run `segpipe run {word(rundir.path)} --from export`",
        )


def _tell_what_runs(rundir: RunDirectory, contract: FrameContract) -> None:
    runs = ", ".join(row.name for row in held_by(rundir.manifest) if not row.needs_gpu)
    _log.warning("build: no engines: the contract's %s is done on CPUs only; %s run it", contract.only_on_host, runs)
