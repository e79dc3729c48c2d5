"""Mask R-CNN's graph beside the network, and FP16 with the choice of boxes in FP32.

Tracing it takes half a minute, so the graph is committed: `python -m tests.tiny_mask_rcnn` makes it again.
"""

from functools import cache

import numpy as np
import onnx
import pytest

from segpipe.instances import Instances
from segpipe.runtime.backends import onnxruntime
from segpipe.runtime.request import OpenOptions, Outputs
from stages.graphs.halving import to_half
from stages.graphs.islands import Island, of_modules
from stages.graphs.rounding import rounded
from stages.measuring.things import ThingsComparison
from stages.tasks import offline_task_of
from stages.validate.judging.things import FP32, HALF, ThingLimits, thing_checks
from tests.tiny_mask_rcnn import CONTRACT, GRAPH, frames, network

DYNAMIC = {"NonZero", "NonMaxSuppression", "RoiAlign", "Loop", "If", "Compress", "Unique", "DeformConv", "Scan"}


@cache
def full() -> onnx.ModelProto:
    return onnx.load(GRAPH)


@cache
def islands() -> tuple[Island, ...]:
    return tuple(of_modules(full(), offline_task_of(CONTRACT).fp32_modules, set()))


@cache
def half() -> onnx.ModelProto:
    return to_half(full(), {island.node for island in islands()})


def answers(model: onnx.ModelProto) -> list[Instances]:
    backend = onnxruntime.open(model.SerializeToString(), CONTRACT, OpenOptions(threads=1))
    return backend.infer(list(frames()), Outputs(scores=True))


@cache
def reference() -> list[Instances]:
    return [offline_task_of(CONTRACT).segment(network(3, 5, 4, CONTRACT.top), frame) for frame in frames()]


def failed(found: list[Instances], limits: ThingLimits) -> list[str]:
    comparison = ThingsComparison()
    for ours, theirs in zip(reference(), found, strict=True):
        comparison.add(ours, theirs, "frame")
    return [check.line() for check in thing_checks(comparison, limits) if check.status == "failed"]


def test_nothing_in_the_graph_has_a_shape_that_depends_on_the_frame() -> None:
    assert DYNAMIC.isdisjoint(node.op_type for node in full().graph.node)
    sides = {value.name: value.type.tensor_type.shape.dim for value in full().graph.output}
    assert [side.dim_param for side in sides["boxes"]] == ["batch", "", ""]


def test_the_graph_answers_a_batch_as_the_network_answers_each_frame() -> None:
    found = answers(full())

    assert sum(len(one.above(0.375)) for one in found) >= 20
    assert failed(found, FP32) == []
    assert [one.settled for one in found] == [True, True]


def test_the_fp16_graph_keeps_coordinates_and_the_choice_of_boxes_in_fp32_and_the_products_in_fp16() -> None:
    kept = {island.node: island for island in islands()}
    assert {"TopK", "Softmax", "Exp"} <= {island.operator for island in kept.values()}
    assert all(island.reason.startswith("picks rows") for island in kept.values())

    layers = [node for node in half().graph.node if node.op_type in {"Conv", "Gemm", "ConvTranspose"}]
    assert layers
    assert not {node.name for node in layers} & kept.keys()
    pooled = [node for node in half().graph.node if node.op_type == "MatMul" and node.name not in kept]
    assert len(pooled) == 5  # rows and columns of boxes and of masks, and the masks' classes


def test_rounding_to_fp16_leaves_every_map_within_the_limit_of_the_gate() -> None:
    """Which boxes of random weights are left of a crowd is decided by less than that."""
    lines = failed(answers(rounded(half())), HALF)

    assert [line for line in lines if line.startswith("map_")] == []


def test_the_committed_graph_is_small_enough_to_be_committed() -> None:
    assert GRAPH.stat().st_size < 500_000


@pytest.mark.parametrize("index", [0, 1])
def test_masks_are_pasted_into_their_boxes(index: int) -> None:
    ours, theirs = reference()[index], answers(full())[index]

    for mine, other, box in zip(ours.crops, theirs.crops, ours.boxes, strict=True):
        assert mine.mask.shape == (np.ceil(box[3]) - np.floor(box[1]), np.ceil(box[2]) - np.floor(box[0]))
        assert mine.mask.shape == other.mask.shape
