"""torchvision's Mask R-CNN in a few weights that find much: heads that are sure, of boxes that overlap."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator

from segpipe.contract.schema import METADATA_KEY, InstanceContract
from stages.config.root import ShapesData
from stages.data.shapes import CLASSES, ShapesSplit
from stages.models.mask_rcnn.network import StaticMaskRCNN

SIZE = (64, 96)
TOP, THINGS = 48, 4
CONTRACT = InstanceContract(
    network_size=SIZE,
    size_multiple=StaticMaskRCNN.size_multiple,
    output_stride=StaticMaskRCNN.stride,
    classes=CLASSES,
    things=CLASSES[1:],
    top=TOP,
    masks="boxed",
    dense_names=StaticMaskRCNN.dense_names,
    settled_name=StaticMaskRCNN.settled_name,
)
GRAPH = Path(__file__).parent / "data" / "mask_rcnn.onnx"
_WIDE = 8
_RATIOS = (0.5, 1.0, 2.0)


def theirs(seed: int = 0, things: int = THINGS, **settings: Any) -> MaskRCNN:
    """In evaluation mode."""
    trunk = nn.Sequential(*(nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.ReLU()) for i, o in pairwise((3, *[_WIDE] * 5))))
    parts: dict[str, Any] = {
        "backbone": BackboneWithFPN(trunk, {"1": "0", "2": "1", "3": "2", "4": "3"}, [_WIDE] * 4, _WIDE),
        "rpn_anchor_generator": AnchorGenerator(tuple((side,) for side in (16, 24, 40, 64, 80)), (_RATIOS,) * 5),
        "box_head": TwoMLPHead(_WIDE * 49, 32),
        "box_predictor": FastRCNNPredictor(32, things + 1),
        "mask_head": MaskRCNNHeads(_WIDE, (_WIDE,), 1),
        "mask_predictor": MaskRCNNPredictor(_WIDE, _WIDE, things + 1),
        "rpn_pre_nms_top_n_test": 128,
        "rpn_post_nms_top_n_test": 96,
        "box_detections_per_img": TOP,
    }
    found = MaskRCNN(**parts | settings)
    fill(found, seed)
    return found.eval()


_LOUD = {"rpn.head.cls_logits": 4.0}
"""How much louder than others' the weights of a layer are."""


@torch.no_grad()
def fill(network: nn.Module, seed: int) -> None:
    """numpy's numbers are the same on every processor."""
    rng = np.random.default_rng(seed)
    for name, weight in network.named_parameters():
        if weight.ndim == 1:
            weight.zero_()
            continue
        loud = next((factor for part, factor in _LOUD.items() if part in name), 1.0)
        values = rng.standard_normal(weight.shape, np.float32) * loud * (2 / weight[0].numel()) ** 0.5
        weight.copy_(torch.from_numpy(values))


MOVED = 1e-5
"""Part of each weight: maps differ by a hundred times what another order of sums makes of them."""


@torch.no_grad()
def move(network: nn.Module, seed: int) -> None:
    """Every weight by a little: a choice of boxes that this leaves alone is no processor's own."""
    rng = np.random.default_rng(seed)
    for weight in network.parameters():
        weight.mul_(torch.from_numpy(1 + MOVED * rng.standard_normal(weight.shape, np.float32)))


def network(channels: int, classes: int, things: int, top: int, **settings: Any) -> StaticMaskRCNN:
    """As [model] name asks for it."""
    assert (channels, classes) == (3, things + 1)
    whole = theirs(0, things, box_detections_per_img=top, **settings)
    return StaticMaskRCNN(whole, candidates=200, steps=8).eval()


def frames() -> Iterator[NDArray[Any]]:
    """Two of the synthetic set."""
    shapes = ShapesSplit(ShapesData(kind="shapes", height=SIZE[0], width=SIZE[1], val=2), "val", ids=True)
    yield from (shapes.sample(index)[0] for index in range(2))


def traced() -> onnx.ModelProto:
    """The network's graph, with its contract."""
    from stages.export.clean import clean
    from stages.export.trace import trace
    from stages.graphs.naming import name_nodes

    model = clean(trace(network(3, THINGS + 1, THINGS, TOP), CONTRACT, 18))
    name_nodes(model)
    onnx.helper.set_model_props(model, {METADATA_KEY: CONTRACT.to_json()})
    return model


if __name__ == "__main__":
    onnx.save(traced(), GRAPH)
