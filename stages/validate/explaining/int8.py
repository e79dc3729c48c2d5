"""Which layer a hop of 8 bits fails by: each one alone, given what the FP32 graph has there."""

from collections.abc import Callable
from statistics import median

import numpy as np
import onnx
from numpy.typing import NDArray

from segpipe.artifacts import BUILD, FP8_GRAPH, FP32_GRAPH, INT8_GRAPH
from stages.graphs.int8_alone import noise_of_layers
from stages.graphs.naming import module_of
from stages.validate.hops.hop import Hop

_APART_DB = 15.0
"""So much louder than the usual layer: honest layers were up to 8 dB apart, planted defects 27 and more."""


def worst_layer(hop: Hop, graph: Callable[[str], bytes], tensor: NDArray[np.float32]) -> str:
    """One line; `graph` gives the bytes of the export's files."""
    built_from = FP8_GRAPH if hop.precision == "fp8" else INT8_GRAPH
    name = built_from if hop.stage == BUILD else hop.artifact
    full, narrow = (onnx.load_model_from_string(graph(file)) for file in (FP32_GRAPH, name))
    found = noise_of_layers(full, narrow, tensor)
    if not found:
        return f"no layer of {name} is in 8 bits"
    worst = min(found, key=lambda node: found[node])
    usual = median(found.values())
    if not found[worst] <= usual - _APART_DB:
        return (
            f"no layer stands out ({found[worst]:.1f} dB at the worst, {usual:.1f} dB usually): try more "
            "calibration_images, or name layers in compress.keep"
        )
    module = next(module_of(node) for node in full.graph.node if node.name == worst)
    return (
        f"layer '{module or worst}' (ONNX node {worst}) alone is at {found[worst]:.1f} dB, layers usually at "
        f"{usual:.1f} dB: its scale, zero point or range does not fit; export again, or compress.keep = "
        f"['{module or worst}']"
    )
