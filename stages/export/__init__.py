"""Stage `export`: a trained network or an imported graph -> model.onnx, model.fp16.onnx and what describes them."""

import logging
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segpipe.artifacts import CHECKPOINT, FP32_GRAPH, RANGES
from segpipe.contract.schema import Contract, FrameContract
from segpipe.errors import ArtifactDamagedError, ArtifactMissingError
from segpipe.installed import versions
from segpipe.rundir.directory import RunDirectory
from stages.config.root import Config
from stages.data import SplitName, fingerprint, open_split
from stages.models import factory_inputs
from stages.results.quantisation import FILE_NAME as QUANTISATION

STAGE = "export"
VERSION = 4
_AUTO = "auto"

_log = logging.getLogger(__name__)


def run(rundir: RunDirectory, config: Config, base: Path) -> Path:
    """Export this run's network, unless an export with the same key is already there."""
    imported = "import" in rundir.manifest.stages
    file = rundir.artifact("import", FP32_GRAPH) if imported else rundir.artifact("train", CHECKPOINT)
    inputs = {rundir.relative(file): rundir.recorded_sha256(file), **factory_inputs(rundir, config.model)}
    if _AUTO in config.export.fp32_islands or config.compress.quantises:  # the frames decide what stays FP32
        inputs["data"] = fingerprint(config, base, rundir.path / ".fingerprints.json")
    if config.compress.trains_int8:
        inputs |= _trained_ranges(rundir)
    params = {"stage_version": VERSION, **config.sections("export"), **config.shapes()}
    params |= config.chosen_int8()
    with rundir.step(STAGE, inputs, params) as step:
        if step.stale:
            from stages.export.files import export_files
            from stages.export.source import imported_contract, imported_source, trained_source
            from stages.graphs.foreign import prove_runs

            if imported and (remark := prove_runs(file, imported_contract(rundir), config.build)):
                _log.warning("export: %s", remark)
            source = imported_source(rundir) if imported else trained_source(file.read_bytes(), config.export.opset)
            frames = _frames(config, base, source.contract, "val" if imported or config.model.trained else "train")
            int8 = None
            if config.compress.quantises:
                from stages.export.calibration import frames_for
                from stages.export.int8 import int8_files

                assert isinstance(source.contract, Contract)  # [compress] is for masks
                seen = frames_for(config, base, source.contract, not (imported or config.model.trained))
                trained = rundir.artifact_bytes("train", RANGES) if config.compress.trains_int8 else None
                int8 = partial(int8_files, config=config, frames=seen, before=_last_ranking(rundir), trained=trained)
            exported = export_files(source, config.export, config.build, frames, int8)
            for name, data in exported.files.items():
                step.path(name).write_bytes(data)
            step.contract_sha256 = exported.contract_sha256
            step.figures = exported.figures
            step.environment |= versions("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime")
    return rundir.artifact(STAGE, FP32_GRAPH)


def _trained_ranges(rundir: RunDirectory) -> dict[str, str]:
    """What training left for INT8, as an input."""
    file = rundir.artifact("train", RANGES)
    return {rundir.relative(file): rundir.recorded_sha256(file)}


def _last_ranking(rundir: RunDirectory) -> bytes | None:
    """quantisation.json of the export that this one replaces; None where there is none, or it was changed."""
    try:
        return rundir.artifact_bytes(STAGE, QUANTISATION)
    except (ArtifactDamagedError, ArtifactMissingError):
        return None


def _frames(
    config: Config, base: Path, contract: FrameContract, split: SplitName
) -> Callable[[], Iterable[NDArray[Any]]]:
    """Input tensors of real frames, spread over a split. Someone who imports a graph may have no frames at all."""
    from segpipe.runtime.preprocess import check_frame, preprocess

    if split == "val" and _AUTO not in config.export.fp32_islands:
        return lambda: ()

    def tensors() -> Iterable[NDArray[Any]]:
        opened = open_split(config, base, split)
        step = max(1, len(opened) // config.export.calibration_images)
        for index in islice(range(0, len(opened), step), config.export.calibration_images):
            frame = check_frame(opened.sample(index)[0], contract)
            yield preprocess(frame, contract, contract.place(*frame.shape[:2]))[None]

    return tensors
