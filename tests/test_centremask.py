"""CentreMask: what it learns, its graph beside itself, and FP16 with the rows' choice in FP32."""

import json
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from segpipe.artifacts import FP16_GRAPH, FP32_GRAPH
from segpipe.contract.schema import InstanceContract
from segpipe.id_maps import UNLABELLED, things_in
from segpipe.instances import Instances
from segpipe.runtime.backends import onnxruntime
from segpipe.runtime.pasting import on_frame
from segpipe.runtime.preprocess import preprocess
from segpipe.runtime.request import OpenOptions, Outputs
from stages.config.losses import CrossEntropy
from stages.config.root import BuildConfig, ExportConfig, ShapesData
from stages.data.shapes import CLASSES, PALETTE, ShapesSplit
from stages.export.equality import joined
from stages.export.files import Exported, export_files
from stages.export.source import ExportSource
from stages.export.trace import trace
from stages.graphs.rounding import rounded
from stages.measuring.things import ThingsComparison
from stages.models.centremask import DENSE, CentreMask, Decode
from stages.tasks import offline_task_of
from stages.validate.judging.things import ThingLimits, thing_checks

SIZE = (64, 96)
CONTRACT = InstanceContract(
    network_size=SIZE,
    size_multiple=CentreMask.size_multiple,
    classes=CLASSES,
    things=CLASSES[1:],
    top=16,
    threshold=0.0,
    semantic_name="semantic",
    dense_names=DENSE,
)
STEPS = 8
SUREST = 8  # rows that no rounding pushes out of the 16
SAME, SAME_PX = 1e-4, 1e-2  # scores and boxes of two FP32 implementations, of up to a hundred pixels


def split(name: str = "train") -> ShapesSplit:
    return ShapesSplit(ShapesData(kind="shapes", height=64, width=96, train=2, val=2), name, ids=True)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    samples = [split().sample(index) for index in range(2)]
    images = [preprocess(frame, CONTRACT, CONTRACT.place(*SIZE)) for frame, _ in samples]
    ids = [offline_task_of(CONTRACT).targets(labels) for _, labels in samples]
    return torch.from_numpy(np.stack(images)), torch.stack(ids)


def network(seed: int = 0) -> CentreMask:
    torch.manual_seed(seed)
    return CentreMask(3, len(CLASSES), len(CLASSES) - 1, top=CONTRACT.top, width=4, prototypes=8)


def loss_of(answer: Any, ids: torch.Tensor) -> torch.Tensor:
    task = offline_task_of(CONTRACT)
    found: torch.Tensor = task.loss((CrossEntropy(kind="cross-entropy"),), None, lambda value: value)(answer, ids)
    return found


@dataclass(frozen=True)
class Learnt:
    """A network after a few steps on two frames, and the first and last of their losses."""

    network: CentreMask
    first: float
    last: float


@cache
def learnt() -> Learnt:
    """What all tests of a network that knows something share."""
    return learn(STEPS)


def learn(steps: int) -> Learnt:
    """From the same beginning."""
    net, (images, ids) = network(), batch()
    optimiser = torch.optim.AdamW(net.parameters(), 1e-2)
    losses = []
    for _ in range(steps):
        loss = loss_of(net(images), ids)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    return Learnt(net.eval(), losses[0], losses[-1])


@cache
def exported() -> Exported:
    net = learnt().network

    @torch.inference_mode()
    def reference(tensor: NDArray[Any]) -> NDArray[Any]:
        named = dict(zip(CONTRACT.output_names, net(torch.from_numpy(tensor)), strict=True))
        return joined([named[name].numpy() for name in CONTRACT.compared_names])

    def frames() -> Any:
        return (tensor[None] for tensor in batch()[0].numpy())

    contract: Any = CONTRACT
    source = ExportSource(trace(net, contract, 18), reference, contract, PALETTE, {})
    return export_files(source, ExportConfig(), BuildConfig(max_batch=2), frames)


# the data


def test_shapes_with_ids_are_the_same_frames() -> None:
    for index in range(2):
        plain, _ = ShapesSplit(ShapesData(kind="shapes", height=64, width=96, train=2), "train").sample(index)
        frame, ids = split().sample(index)
        assert (plain == frame).all()
        assert ids.dtype == np.uint16
        assert things_in(ids)


def test_what_little_is_left_of_a_shape_is_unlabelled() -> None:
    samples = [ShapesSplit(ShapesData(kind="shapes", train=20), "train", ids=True).sample(n)[1] for n in range(20)]

    assert min(thing.crop.area for ids in samples for thing in things_in(ids)) >= 30
    assert any((ids == UNLABELLED).any() for ids in samples)


# learning


def test_training_makes_the_loss_fall() -> None:
    assert learnt().last < 0.8 * learnt().first


def test_every_weight_gets_a_gradient() -> None:
    net, (images, ids) = network(), batch()
    loss_of(net(images), ids).backward()  # type: ignore[no-untyped-call]

    without = [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


def test_frames_without_things_or_labels_have_a_loss_that_is_a_number() -> None:
    net, (images, ids) = network(), batch()

    for nothing in (torch.zeros_like(ids), torch.full_like(ids, UNLABELLED)):
        loss = loss_of(net(images), nothing)
        loss.backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(loss)


def test_a_missed_thing_costs_and_an_unlabelled_one_does_not() -> None:
    """The answer says that there is nothing."""
    net, (images, ids) = network(), batch()
    answer = {name: tensor.detach() for name, tensor in net(images).items()}
    answer["heat"] = torch.full_like(answer["heat"], -8)

    known, unknown = loss_of(answer, ids), loss_of(answer, torch.where(ids % 1000 > 0, UNLABELLED, ids))
    assert known > unknown + 1


def test_two_trainings_give_the_same_weights() -> None:
    once, again = learn(2).network, learn(2).network

    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), again.parameters(), strict=True))


def test_a_network_of_boxes_alone_learns_them_and_answers_no_masks() -> None:
    contract = CONTRACT.model_copy(update={"masks": "none", "dense_names": DENSE[:2]})
    task = offline_task_of(contract)
    net = CentreMask(3, len(CLASSES), len(CLASSES) - 1, top=CONTRACT.top, masks="none", width=4)
    images, ids = batch()
    loss = task.loss((CrossEntropy(kind="cross-entropy"),), None, lambda value: value)(net(images), ids)
    loss.backward()

    assert all(weight.grad is not None for weight in net.parameters())
    frame, labels = split().sample(0)
    found = task.segment(net.eval(), frame)
    assert (net.dense_names, net.masks) == (contract.dense_names, contract.masks)
    assert len(found) == CONTRACT.top
    assert (found.crops, {*found.dense}) == ((), {"heat", "reach"})
    meter = task.meter()
    meter.add(found, labels)
    figures = meter.harvest()
    assert (figures.masks, figures.panoptic) == ({}, {})
    assert "ap" in figures.boxes


# rows


def test_rows_are_the_peaks_of_the_heat_map_with_what_stands_at_their_places() -> None:
    heat = torch.full((1, 2, 4, 6), -9.0)
    heat[0, 0, 1, 2], heat[0, 1, 3, 5], heat[0, 0, 1, 3] = 3.0, 1.0, 2.0  # the last is no peak
    reach = torch.arange(96.0).view(1, 4, 4, 6) / 96
    scores, labels, boxes, chosen = Decode(2, 4)(heat, reach, reach)

    assert scores[0].tolist() == pytest.approx(torch.tensor([3.0, 1.0]).sigmoid().tolist())
    assert labels[0].tolist() == [0, 1]
    assert chosen[0, 0].tolist() == reach[0, :, 1, 2].tolist()
    left, top, right, bottom = (16 * reach[0, :, 3, 5]).tolist()
    assert boxes[0, 1].tolist() == pytest.approx([22 - left, 14 - top, 22 + right, 14 + bottom])


def test_the_definition_answers_what_the_meter_counts() -> None:
    task = offline_task_of(CONTRACT)
    meter = task.meter()
    for index in range(2):
        frame, ids = split().sample(index)
        answer = task.segment(learnt().network, frame)
        assert answer.size == frame.shape[:2]
        meter.add(answer, ids)

    figures = meter.harvest()
    assert (figures.frames, meter.harvest().frames) == (2, 0)
    assert 0 <= task.headline_of(figures) <= 1


@pytest.mark.parametrize("wrong", [{"channel_order": "bgr"}, {"mean": (0.0,) * 3}])
def test_what_is_done_wrong_to_the_frame_shows_in_the_maps(wrong: dict[str, Any]) -> None:
    """BGR for RGB, and a mean left out: also where nothing is found that could differ."""
    task, changed = offline_task_of(CONTRACT), offline_task_of(CONTRACT.model_copy(update=wrong))
    frame = split().sample(0)[0]
    comparison = ThingsComparison()
    comparison.add(task.segment(learnt().network, frame), changed.segment(learnt().network, frame), "frame")

    failed = {check.name for check in thing_checks(comparison, ThingLimits()) if check.status == "failed"}
    assert "map_relative_l2" in failed


# the graph


def apart_px(ours: Instances, theirs: Instances) -> float:
    """How far the surest rows are from the nearest row of their class: rows that nearly tie may change places."""
    distances = [
        np.abs(theirs.boxes[theirs.labels == label] - box).max(1, initial=0).min(initial=np.inf)
        for box, label in zip(ours.boxes[:SUREST], ours.labels[:SUREST], strict=True)
    ]
    return float(max(distances))


def test_the_graph_answers_what_the_network_answers() -> None:
    graph = exported().files[FP32_GRAPH]
    backend = onnxruntime.open(graph, CONTRACT, OpenOptions(threads=1))
    frame = split("val").sample(0)[0]

    ours, (theirs,) = offline_task_of(CONTRACT).segment(learnt().network, frame), backend.infer([frame], Outputs())
    assert len(ours) == CONTRACT.top
    assert np.abs(ours.scores - theirs.scores).max() < SAME
    assert apart_px(ours, theirs) < SAME_PX


def test_the_fp16_graph_keeps_the_choice_of_rows_in_fp32_and_says_why() -> None:
    report = json.loads(exported().files["precision.json"])
    kept = {island["node"]: island for island in report["islands"]}
    half = onnx.load_from_string(exported().files[FP16_GRAPH])

    picked = [island for island in kept.values() if island["operator"] == "TopK"]
    assert [island["reason"][:10] for island in picked] == ["picks rows"]
    assert all(node.name in kept for node in half.graph.node if node.op_type in {"TopK", "GatherElements"})
    types = {value.name: value.type.tensor_type.elem_type for value in half.graph.output}
    assert types["labels"] == onnx.TensorProto.INT64


def test_the_fp16_graphs_rows_are_what_fp32_picks_from_its_maps() -> None:
    """Whatever rounding did to the maps."""
    half = rounded(onnx.load_from_string(exported().files[FP16_GRAPH])).SerializeToString()
    backend = onnxruntime.open(half, CONTRACT, OpenOptions(threads=1))
    (found,) = backend.infer([split().sample(0)[0]], Outputs(scores=True))
    maps = [torch.from_numpy(found.dense[name])[None] for name in ("heat", "reach", "coefficients")]
    scores, labels, boxes, _ = (part[0].numpy() for part in Decode(CONTRACT.top, 4)(*maps))

    placement = CONTRACT.place(*SIZE)
    picked = replace(found, scores=scores, labels=labels, boxes=on_frame(boxes, placement))
    assert np.abs(np.sort(found.scores) - np.sort(scores)).max() < SAME
    assert apart_px(picked, found) < SAME_PX


def test_a_batch_answers_as_its_frames_do() -> None:
    backend = onnxruntime.open(exported().files[FP32_GRAPH], CONTRACT, OpenOptions(threads=1))
    frames = [split("val").sample(index)[0] for index in range(2)]
    alone = [backend.infer([frame], Outputs())[0] for frame in frames]

    for one, together in zip(alone, backend.infer(frames, Outputs()), strict=True):
        assert apart_px(one, together) < SAME_PX
