"""What the tiny Mask R-CNN answers to its frames, and what the gate says of another's answer."""

from dataclasses import replace
from functools import cache

import torch

from segpipe.contract.schema import InstanceContract
from segpipe.instances import Instances
from stages.measuring.things import ThingsComparison
from stages.models.mask_rcnn.network import StaticMaskRCNN
from stages.tasks import offline_task_of
from stages.validate.judging.things import FP32, HALF, ThingLimits, thing_checks
from tests.tiny_mask_rcnn import CONTRACT, frames, network

SAME = replace(FP32, mean_iou=HALF.mean_iou, worst_iou=HALF.worst_iou)
"""Of another order of sums. A mask of random weights is all edge, where rounding decides; `probe_masks` holds the head
to FP32."""


def made() -> StaticMaskRCNN:
    """The network, a new one."""
    return network(3, 5, 4, CONTRACT.top)


def answers(found: torch.nn.Module, contract: InstanceContract = CONTRACT) -> list[Instances]:
    """Of each frame."""
    return [offline_task_of(contract).segment(found, frame) for frame in frames()]


@cache
def reference() -> list[Instances]:
    """What PyTorch answers."""
    return answers(made())


def failed(found: list[Instances], limits: ThingLimits = HALF) -> dict[str, str]:
    """What is said of each limit that is not held, by its name."""
    comparison = ThingsComparison()
    for ours, theirs in zip(reference(), found, strict=True):
        comparison.add(ours, theirs, "frame")
    return {check.name: check.line() for check in thing_checks(comparison, limits) if check.status == "failed"}
