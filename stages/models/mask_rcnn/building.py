"""torchvision's Mask R-CNNs by name, with random weights: `[model] trained` names the file of theirs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torchvision
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator

from segpipe.errors import ConfigError
from stages.models.mask_rcnn.network import StaticMaskRCNN
from stages.models.pretrained import adapt_stem

_LAYERS = {"2": "0", "4": "1", "7": "2", "16": "3"}
"""Of MobileNetV3's trunk: the last at a quarter, an eighth, a sixteenth and a thirty-second of the side."""
_ANCHORS_PX = (32, 64, 128, 256, 512)
_RATIOS = (0.5, 1.0, 2.0)
_MOST = 3840


def build(
    name: str,
    channels: int,
    classes: int,
    things: int,
    top: int,
    *,
    masks: str = "boxed",
    outputs: int | None = None,
    categories: Sequence[int] = (),
    width: int = 256,
    anchors: Sequence[int] = _ANCHORS_PX,
    tried: int = 1000,
    proposals: int = 1000,
    candidates: int = 1000,
    steps: int = 24,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    norm_eps: float = 1e-5,
) -> StaticMaskRCNN:
    """`width` and `anchors` (pixels, one a level) are for MobileNetV3's; the others' are torchvision's.

    `outputs` are the head's, background among them, where it tells more than `things`: `categories` are their numbers
    there. `tried` anchors a level become at most `proposals`, and of these `candidates` for the last suppression.
    Weights that were trained with frozen batch norms of another epsilon say so: COCO_V1 of resnet50_fpn has 0.
    """
    if masks == "none":
        raise ConfigError(f"[task] masks = 'none': torchvision/{name} gives masks", hint="leave it out, or centremask")
    _refuse_too_many({"tried": tried, "proposals": proposals, "candidates": candidates, "steps": steps})
    if outputs is not None and len(categories) != things:
        raise ConfigError(
            f"[model] options.categories: {len(categories)} numbers for {things} things",
            hint="give the number of each of [task] things in the head, in their order",
        )
    told = outputs or things + 1
    settings: dict[str, Any] = {
        "rpn_pre_nms_top_n_test": tried,
        "rpn_post_nms_top_n_test": proposals,
        "box_score_thresh": score_threshold,
        "box_nms_thresh": nms_threshold,
        "box_detections_per_img": top,
    }
    if name == "maskrcnn_mobilenet_v3_large_fpn":
        whole = _on_mobilenet(told, width, anchors, settings)
    else:
        settings |= {"weights": None, "weights_backbone": None, "num_classes": told}
        whole = torchvision.models.get_model(name, **settings)
    adapt_stem(whole.backbone.body, channels)
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = norm_eps
    return StaticMaskRCNN(whole, categories=categories, candidates=candidates, steps=steps)


def _refuse_too_many(options: Mapping[str, int]) -> None:
    for option, count in options.items():
        if not 1 <= count <= _MOST:
            hint = f"{_MOST} is the most that TensorRT picks"
            raise ConfigError(f"[model] options.{option} is {count}, wanted 1 to {_MOST}", hint=hint)


def _on_mobilenet(outputs: int, width: int, anchors: Sequence[int], settings: dict[str, Any]) -> MaskRCNN:
    """Put together as torchvision puts its own together; heads as wide as theirs where `width` is 256."""
    trunk = torchvision.models.mobilenet_v3_large(weights=None, weights_backbone=None).features
    wide = [trunk[int(layer)].out_channels for layer in _LAYERS]
    generator = AnchorGenerator(tuple((side,) for side in anchors), (_RATIOS,) * len(anchors))
    return MaskRCNN(
        BackboneWithFPN(trunk, _LAYERS, wide, width),
        rpn_anchor_generator=generator,
        box_head=TwoMLPHead(width * 7**2, 4 * width),
        box_predictor=FastRCNNPredictor(4 * width, outputs),
        mask_head=MaskRCNNHeads(width, (width,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(width, width, outputs),
        **settings,
    )
