"""Models beside the one that takes frames: the network alone, for clients with pre- and post-processing of their own.

Each is written only where the gate passed its file on the backend that Triton would run it with.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from segpipe.artifacts import ARTIFACTS, BUILD, ON_CPU, Artifact
from segpipe.contract.schema import Contract
from segpipe.errors import BackendError, BackendMissingError, NotValidatedError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.backends.external_data import refuse_external_data
from segpipe.triton.config import ModelConfig, Tensor
from segpipe.verdict import require_passed

_log = logging.getLogger(__name__)

_NETWORK, _ENGINE = "net", "trt"
"""What is appended to the model's name."""
_FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
"""As Triton's backends call them."""
_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}
"""Of ONNX Runtime, in numpy's words."""


def bare_models(run: RunDirectory, contract: Contract, whole: ModelConfig) -> Iterator[tuple[ModelConfig, str, bytes]]:
    """Config, file name and bytes of each; `whole` is the config of the model that takes frames."""
    on_gpu = whole.instances.on_gpu
    wanted = [(_NETWORK, ARTIFACTS["onnxruntime-cuda"] if on_gpu else ON_CPU, "onnxruntime")]
    if on_gpu:  # an engine of TensorRT for RTX is no plan: Triton has no backend for it
        wanted.append((_ENGINE, ARTIFACTS["tensorrt"], "tensorrt"))
    for suffix, row, backend in wanted:
        if not _may_be_served(run, row):
            continue
        batch, inputs, outputs = _shapes(run, contract)
        most = min(whole.instances.max_batch, _profile(run, row)) if row.is_engine else whole.instances.max_batch
        config = replace(
            whole,
            name=f"{whole.name}_{suffix}",
            backend=backend,
            inputs=inputs,
            outputs=outputs,
            instances=replace(whole.instances, max_batch=0 if batch else most),
            parameters=(),
        )
        yield config, _FILES[backend], run.artifact_bytes(row.stage, row.file)


def _may_be_served(run: RunDirectory, row: Artifact) -> bool:
    record = run.manifest.stages.get(row.stage)
    if record is None or row.file not in record.outputs:
        _log.info("triton: no model of %s: %s is not in %s", row.name, row.path, run.path)
        return False
    try:
        require_passed(run, record.outputs[row.file].sha256, row.name)
    except NotValidatedError as error:
        _log.warning("triton: no model of %s: %s", row.name, error)
        return False
    return True


def _profile(run: RunDirectory, row: Artifact) -> int:
    """The largest batch that the engine was built for. A bundle does not carry it: one is what every engine takes."""
    figures: Any = run.record(BUILD).figures.get(row.name, {})
    return max((int(shapes["largest"][0]) for shapes in figures.get("profiles", [])), default=1)


def _shapes(run: RunDirectory, contract: Contract) -> tuple[bool, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Whether the batch is fixed, and the graph's tensors; an engine has those of the graph that it was built from."""
    graph = run.artifact_bytes(ON_CPU.stage, ON_CPU.file)
    refuse_external_data(graph)
    session = _session(graph)
    given = session.get_inputs()[0]
    fixed = isinstance(given.shape[0], int)
    outputs = [value for value in session.get_outputs() if value.name == contract.output_name]
    return fixed, (_tensor(given, fixed),), tuple(_tensor(value, fixed) for value in outputs)


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
        raise BackendError(f"cannot load {ON_CPU.path}: {reason(error)}", hint="export it again") from error
