"""Models beside the one that takes frames: the network alone, for clients with pre- and post-processing of their own.

Each is written only where the gate passed its file on the backend that Triton would run it with.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from segpipe.artifacts import ARTIFACTS, BUILD, END_TO_END, END_TO_END_GRAPH, EXPORT, FP32_GRAPH, ON_CPU
from segpipe.errors import BackendError, BackendMissingError, NotValidatedError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.backends.external_data import refuse_external_data
from segpipe.triton.config import ModelConfig, Tensor
from segpipe.verdict import require_passed

_log = logging.getLogger(__name__)

_FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
"""As Triton's backends call them."""
_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}
"""Of ONNX Runtime, in numpy's words."""


@dataclass(frozen=True)
class _Variant:
    """A file of the run, which the gate judged under `judged_as`, and the graph whose tensors it has."""

    suffix: str
    judged_as: str
    stage: str
    file: str
    graph: str = FP32_GRAPH
    backend: str = "onnxruntime"


_ON_CPU = (
    _Variant("net", ON_CPU.name, EXPORT, FP32_GRAPH),
    _Variant("graph", END_TO_END, EXPORT, END_TO_END_GRAPH, END_TO_END_GRAPH),
)
_ON_GPU = (  # an engine of TensorRT for RTX is no plan: Triton has no backend for it
    _Variant("net", "onnxruntime-cuda", EXPORT, FP32_GRAPH),
    _Variant("trt", "tensorrt", BUILD, ARTIFACTS["tensorrt"].file, backend="tensorrt"),
)


def bare_models(run: RunDirectory, whole: ModelConfig) -> Iterator[tuple[ModelConfig, str, bytes]]:
    """Config, file name and bytes of each; `whole` is the config of the model that takes frames."""
    for variant in _ON_GPU if whole.instances.on_gpu else _ON_CPU:
        if not _may_be_served(run, variant):
            continue
        fixed, inputs, outputs = _tensors(run.artifact_bytes(EXPORT, variant.graph))
        most = _profile(run, variant) if variant.stage == BUILD else whole.instances.max_batch
        instances = replace(whole.instances, max_batch=0 if fixed else min(most, whole.instances.max_batch))
        config = replace(
            whole,
            name=f"{whole.name}_{variant.suffix}",
            backend=variant.backend,
            inputs=inputs,
            outputs=outputs,
            instances=instances,
            parameters=(),
        )
        yield config, _FILES[variant.backend], run.artifact_bytes(variant.stage, variant.file)


def _may_be_served(run: RunDirectory, variant: _Variant) -> bool:
    record = run.manifest.stages.get(variant.stage)
    if record is None or variant.file not in record.outputs:
        _log.info("triton: no model of %s, which %s does not hold", variant.file, run.path)
        return False
    try:
        require_passed(run, record.outputs[variant.file].sha256, variant.judged_as)
    except NotValidatedError as error:
        _log.warning("triton: no model of %s: %s", variant.file, error)
        return False
    return True


def _profile(run: RunDirectory, variant: _Variant) -> int:
    """The largest batch that the engine was built for. A bundle does not carry it: one is what every engine takes."""
    figures: Any = run.record(BUILD).figures.get(variant.judged_as, {})
    return max((int(shapes["largest"][0]) for shapes in figures.get("profiles", [])), default=1)


def _tensors(graph: bytes) -> tuple[bool, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Whether a graph's batch is fixed, its input and its outputs."""
    refuse_external_data(graph)
    session = _session(graph)
    given = session.get_inputs()[0]
    fixed = isinstance(given.shape[0], int)
    return fixed, (_tensor(given, fixed),), tuple(_tensor(value, fixed) for value in session.get_outputs())


def _tensor(value: Any, with_batch: bool) -> Tensor:
    if value.type not in _TYPES:
        raise BackendError(
            f"'{value.name}' is a {value.type}, of which Triton is told nothing", hint="leave --bare out"
        )
    sides = tuple(side if isinstance(side, int) else -1 for side in value.shape)
    return Tensor(value.name, _TYPES[value.type], sides if with_batch else sides[1:])


def _session(graph: bytes) -> Any:
    try:
        import onnxruntime

        from segpipe.runtime.backends.session import FAILURES, open_session, reason
    except ImportError:
        raise BackendMissingError(
            "--bare reads the graph with ONNX Runtime", hint="pip install 'segpipe[cpu]'"
        ) from None
    try:
        return open_session(graph, onnxruntime.SessionOptions(), "CPUExecutionProvider")
    except FAILURES as error:
        raise BackendError(f"cannot load the graph: {reason(error)}", hint="export it again") from error
