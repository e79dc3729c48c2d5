"""Mask R-CNN in full: torchvision's own networks beside the static ones, and every stage on a small one."""

import json
from pathlib import Path

import onnx
import pytest
import torch

from segpipe.artifacts import FP16_GRAPH
from segpipe.media.images import write_image
from segpipe.rundir.directory import RunDirectory
from stages.config.file import load_config
from stages.models.mask_rcnn.building import build
from stages.pipeline import Selection, run_stages
from stages.results.gate import read_report
from tests.calling import call
from tests.test_mask_rcnn import SAME, SAME_MASKS, SAME_PX
from tests.test_mask_rcnn_way import TOML, run_with
from tests.tiny import SHORTEST_BENCHMARK
from tests.tiny_mask_rcnn import CONTRACT, GRAPH, frames, traced

pytestmark = pytest.mark.soak
IMAGE = (256, 384)
FEWER = """
[validate]
images = 2
reference_images = 1
stress = false
pictures = 1

[build]
targets = ["tensorrt-rtx"]
max_batch = 2
"""
FEWER += SHORTEST_BENCHMARK


@pytest.mark.parametrize(
    "name", ["maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "maskrcnn_mobilenet_v3_large_fpn"]
)
def test_each_network_of_torchvision_answers_as_it_does_itself(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, 3, 5, 4, 60, score_threshold=0.0).eval()
    torch.nn.init.normal_(network.rpn.head.cls_logits.weight, std=0.3)
    torch.nn.init.normal_(network.roi_heads.box_predictor.cls_score.weight, std=0.2)
    with torch.inference_mode():
        (wanted,) = network.published(image := torch.randn(1, 3, *IMAGE))
        boxes, scores, labels, masks, *_, settled = (part[0] for part in network(image))
    count = len(wanted["scores"])

    assert bool(settled)
    assert count >= 20
    assert (labels[:count] + 1).tolist() == wanted["labels"].tolist()
    assert (scores[:count] - wanted["scores"]).abs().max() < SAME
    assert (boxes[:count] - wanted["boxes"]).abs().max() < SAME_PX
    assert (masks[:count].sigmoid() - wanted["masks"][:, 0]).abs().max() < SAME_MASKS


def test_the_committed_graph_is_what_the_network_is_traced_to() -> None:
    committed, again = onnx.load(GRAPH), traced()

    assert [node.op_type for node in again.graph.node] == [node.op_type for node in committed.graph.node]


def test_every_stage_takes_it_and_people_get_their_pictures(tmp_path: Path) -> None:
    """What the gate finds of random weights is told, not judged here: rounding decides which of a crowd is left."""
    run = run_with(tmp_path / "run", TOML + FEWER)
    config = load_config(run)
    run_stages(run, config, run, Selection(last="build"))
    code, _, err = call("validate", run)
    report = read_report(RunDirectory(run).artifact_bytes("validate", "report.json"), "here", "")
    figures = RunDirectory(run).record("build").figures

    assert code in {0, 3}, err
    assert {check.name: check.status for check in report.hops["onnx"].checks}["lost_things"] == "passed"
    fp16 = {check.name: check.status for check in report.hops["fp16"].checks}
    assert fp16["map_relative_l2"] == fp16["map_non_finite"] == "passed"
    (engine,) = figures.values()
    assert engine["fp16_share"] >= 0.9

    code, out, err = call("benchmark", run, "--json")
    contestants = {entry["name"]: entry for entry in json.loads(out)["contestants"]}
    assert code == 0, err
    for name in ("segpipe onnxruntime-cpu", "PyTorch eager FP32", "ONNX Runtime, PyTorch pre/post"):
        assert contestants[name]["latency"]
    same = contestants["ONNX Runtime, PyTorch pre/post"]  # torchvision's pasting rounds boxes: noise differs from ours
    assert same["agreement"] > 0.99

    write_image(tmp_path / "in" / "one.png", next(frames()))
    code, _, err = call("predict", run, tmp_path / "in", "-o", tmp_path / "out", "--allow-unvalidated")
    written = json.loads((tmp_path / "out" / "things" / "one.json").read_text())
    assert code == 0, err
    assert len(written["annotations"]) == CONTRACT.top
    assert FP16_GRAPH in RunDirectory(run).record("export").outputs
