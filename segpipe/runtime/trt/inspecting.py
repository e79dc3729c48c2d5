"""What an engine really computes in: the engine inspector's JSON, read. Needs the GPU the engine is for."""

import json
from dataclasses import dataclass
from typing import Any

from segpipe.runtime.trt import Flavour, load, logger

_HALF = ("Half", "FP16")


@dataclass(frozen=True)
class Inspection:
    """What a loaded engine tells of itself."""

    layers_json: str
    device_memory_bytes: int
    """Activations of one execution context."""


def inspect_engine(flavour: Flavour, plan: bytes) -> Inspection | None:
    """None where this machine's GPU cannot load the engine. `plan` must be our own bytes: it is native code."""
    trt = load(flavour)
    messages = logger(trt, quiet=True)
    engine = trt.Runtime(messages).deserialize_cuda_engine(plan)
    if engine is None:
        return None
    text: str = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return Inspection(text, engine.device_memory_size_v2)


def half_nodes(information: str, nodes: set[str]) -> dict[str, bool]:
    """For each ONNX node that some engine layer names: whether that layer reads FP16. Layers hold several nodes."""
    found: dict[str, bool] = {}
    for layer in _layers(information):
        if not isinstance(layer, dict):  # without detail the inspector gives names only
            continue
        formats = [told for value in layer.get("Inputs", []) if (told := _format(value))]
        if not formats:  # nothing is known of this layer: no reason to call it slow
            continue
        half = any(word in told for told in formats for word in _HALF)
        for node in nodes & _names(layer):
            found[node] = found.get(node, False) or half
    return found


def _layers(information: str) -> list[Any]:
    """An inspector that answers nothing, or no JSON, knows of no layers."""
    try:
        told = json.loads(information)
    except json.JSONDecodeError:
        return []
    layers: list[Any] = told.get("Layers", []) if isinstance(told, dict) else []
    return layers


def _names(layer: dict[str, Any]) -> set[str]:
    """ONNX nodes in a layer's metadata `[ONNX Layer: a]...[ONNX Layer: b]`, else in its name `a + b`."""
    metadata = str(layer.get("Metadata", ""))
    named = {part.partition("]")[0] for part in metadata.split("[ONNX Layer: ")[1:]}
    return named or {part.strip() for part in str(layer.get("Name", "")).split("+")}


def _format(value: Any) -> str:
    return str(value.get("Format/Datatype", "")) if isinstance(value, dict) else ""
