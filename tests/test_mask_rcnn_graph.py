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
from stages.tasks import offline_task_of
from tests.mask_rcnn_answers import SAME, answers, failed, made
from tests.tiny_mask_rcnn import CONTRACT, GRAPH, frames, move

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


def of_graph(model: onnx.ModelProto) -> list[Instances]:
    backend = onnxruntime.open(model.SerializeToString(), CONTRACT, OpenOptions(threads=1))
    return backend.infer(list(frames()), Outputs(scores=True))


def test_nothing_in_the_graph_has_a_shape_that_depends_on_the_frame() -> None:
    assert DYNAMIC.isdisjoint(node.op_type for node in full().graph.node)
    sides = {value.name: value.type.tensor_type.shape.dim for value in full().graph.output}
    assert [side.dim_param for side in sides["boxes"]] == ["batch", "", ""]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_found_in_these_frames_is_decided_by_far_more_than_rounding(seed: int) -> None:
    """Without that the next test would be another on each processor."""
    other = made()
    move(other, seed)
    found = answers(other)

    assert {"lost_things", "extra_things", "thing_scores"}.isdisjoint(failed(found))
    assert [one.settled for one in found] == [True, True]


def test_the_graph_answers_a_batch_as_the_network_answers_each_frame() -> None:
    found = of_graph(full())

    assert sum(len(one.above(0.375)) for one in found) >= 20
    assert failed(found, SAME) == {}
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
    lines = failed(of_graph(rounded(half())))

    assert {name: line for name, line in lines.items() if name.startswith("map_")} == {}


def test_the_committed_graph_is_small_enough_to_be_committed() -> None:
    assert GRAPH.stat().st_size < 500_000


def test_masks_are_pasted_into_their_boxes() -> None:
    for found in of_graph(full()):
        for crop, box in zip(found.crops, found.boxes, strict=True):
            assert crop.mask.shape == (np.ceil(box[3]) - np.floor(box[1]), np.ceil(box[2]) - np.floor(box[0]))
            assert (crop.left, crop.top) == (np.floor(box[0]), np.floor(box[1]))
