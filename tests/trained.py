"""A small run that is trained well enough to have wide margins, and ways to break it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import load, save

from segpipe.contract.schema import METADATA_KEY, Contract
from segpipe.rundir.directory import RunDirectory
from stages.config.file import load_config
from stages.config.root import Config
from tests.tiny import Size, shapes_toml, write_toml

TOML = shapes_toml(
    Size(frames=160, val=8, width=8, epochs=8, batch_size=8),
    """
[export]
fp32_islands = []  # overflows that tests plant must reach the gate

[validate]
images = 8
reference_images = 8
pictures = 2

[validate.limits]  # eight small images: what INT8 loses on them is as much chance as rounding
max_miou_drop_int8 = 0.05
max_iou_drop_int8 = 0.1
""",
)


def trained_config(directory: Path, *overrides: str) -> Config:
    """The config, written to `directory`."""
    return load_config(write_toml(directory, TOML), overrides)


def edit_graph(
    graph: bytes, change: Callable[[str, np.ndarray], np.ndarray], contract: Contract | None = None
) -> bytes:
    """A graph whose weights (by their names) went through `change`, carrying another contract where one is given."""
    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(change(tensor.name, values).astype(values.dtype), tensor.name))
    if contract is not None:
        onnx.helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def replace_output(rundir: RunDirectory, stage: str, name: str, content: bytes) -> None:
    """Commit a stage again with one file changed, as a broken tool would have made it: hashes and all."""
    record = rundir.record(stage)
    files = {other: rundir.artifact_bytes(stage, other) for other in record.outputs} | {name: content}
    forced = RunDirectory(rundir.path, frozenset({stage}))
    with forced.step(stage, record.inputs, record.params) as step:
        for other, data in files.items():
            step.path(other).write_bytes(data)
        step.contract_sha256 = rundir.manifest.contract_sha256
        step.figures, step.environment = record.figures, record.environment


def edit_checkpoint(data: bytes, change: Callable[[str, np.ndarray], np.ndarray]) -> bytes:
    """A checkpoint whose tensors went through `change`; its description stays."""
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    tensors = {name: np.asarray(change(name, values), values.dtype) for name, values in load(data).items()}
    edited: bytes = save(tensors, metadata=metadata)
    return edited


def overflowing(name: str, values: np.ndarray) -> np.ndarray:
    """The same network in FP32: the stem's first activations 40000 times larger, its second convolution undoes it."""
    factor = {"stem.1.weight": 4e4, "stem.1.bias": 4e4, "stem.3.weight": 1 / 4e4}.get(name, 1.0)
    return values * np.float32(factor)


def larger_inside(name: str, values: np.ndarray) -> np.ndarray:
    """As `overflowing`, in the exported graph, where batch norms are folded."""
    factor = {"stem.3.weight": 1 / 4e4}.get(name, 4e4 if name.startswith("stem.0") or name == "getitem_bias" else 1.0)
    return values * np.float32(factor)
