"""Mask R-CNN the whole way: torchvision's own, trained by torchvision's own losses on the synthetic shapes, adopted,
exported, built, judged and measured beside itself: `python -m benchmarks.mask_rcnn RUN [--minutes 8]`.

One thread trains. What is there already is not made again; `segpipe show RUN` and the report tell the rest.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from segpipe.artifacts import CHECKPOINT
from segpipe.id_maps import things_in
from segpipe.instances import Instances
from segpipe.rundir.directory import RunDirectory
from stages.config.draft import draft_contract
from stages.config.file import load_config
from stages.config.root import Config
from stages.data import Split, open_split
from stages.measuring.things import ThingsComparison
from stages.models import build_for, checkpoint
from stages.pipeline import Selection, run_stages
from stages.tasks import offline_task_of
from stages.validate.judging.things import HALF, thing_checks

WEIGHTS = "theirs.pth"
TOML = f"""[data]
kind = "shapes"
height = 96
width = 160
train = 800
val = 60
test = 60

[input]
height = 96
width = 160

[task]
kind = "instances"
things = ["disc", "box", "triangle", "ring"]
top = 10

[model]
name = "torchvision/maskrcnn_mobilenet_v3_large_fpn"
trained = "{WEIGHTS}"
options = {{ width = 32, anchors = [16, 24, 40, 64, 96], tried = 200, proposals = 64, candidates = 128 }}

[export]
fp32_islands = "auto"

[build]
targets = ["tensorrt-rtx"]

[validate]
images = 40

[benchmark]
rounds = 100
threads = 1
"""
BATCH, RATE = 4, 1e-3


def main() -> None:
    """Every stage, and what it came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, default=8, help="of training")
    parser.add_argument("--last", default="benchmark", help="stage to end with")
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    toml = options.run / "segpipe.toml"
    if not toml.exists():
        toml.write_text(TOML)
    config = load_config(options.run)
    if not (options.run / WEIGHTS).exists():
        torch.save(trained(config, options.run, 60 * options.minutes), options.run / WEIGHTS)
    adopted = run_stages(options.run, config, options.run, Selection(last="train"))
    print(json.dumps(planted(options.run, config), indent=1), flush=True)
    run_stages(options.run, config, options.run, Selection(last=options.last))
    print(json.dumps({name: record.figures for name, record in adopted.manifest.stages.items()}, default=str))


def planted(run: Path, config: Config) -> dict[str, list[str]]:
    """What the limits of an FP16 hop say of the network with a defect, on frames to validate."""
    data = RunDirectory(run).artifact_bytes("train", CHECKPOINT)
    split = open_split(config, run, "val")
    frames = [split.sample(index)[0] for index in range(_FRAMES)]

    def answers(change: Callable[[Any], object]) -> list[Instances]:
        found = checkpoint.from_bytes(data)
        with torch.no_grad():
            change(found.network)
        task = offline_task_of(found.contract)
        return [task.segment(found.network, frame) for frame in frames]

    reference, table = answers(lambda network: None), {}
    for name, change in DEFECTS.items():
        comparison = ThingsComparison()
        for number, (ours, theirs_) in enumerate(zip(reference, answers(change), strict=True)):
            comparison.add(ours, theirs_, split.name(number))
        table[name] = [check.line() for check in thing_checks(comparison, HALF) if check.status == "failed"]
    return table


def _shifted(network: Any) -> None:
    rows = network.decode.rows.forward

    def forward(*given: Any) -> tuple[Tensor, ...]:
        boxes, *others = rows(*given)
        return (boxes + 1, *others)

    network.decode.rows.forward = forward


def _louder(path: str) -> Callable[[Any], object]:
    return lambda network: [weight.mul_(1.01) for weight in network.get_submodule(path).parameters()]


_FRAMES = 16
DEFECTS: dict[str, Callable[[Any], object]] = {
    "nothing": lambda network: None,
    "an NMS threshold of 0.6": lambda network: setattr(network.decode.rows, "threshold", 0.6),
    "an NMS threshold of 0.6 of proposals": lambda network: setattr(network.decode.proposals, "threshold", 0.6),
    "boxes one pixel to the right and down": _shifted,
    "one step of suppression": lambda network: setattr(network.decode.rows, "steps", 1),
    "anchors' scores x 1.01": _louder("rpn.head.cls_logits"),
    "anchors' moves x 1.01": _louder("rpn.head.bbox_pred"),
    "classes x 1.01": _louder("roi_heads.box_predictor.cls_score"),
    "boxes' moves x 1.01": _louder("roi_heads.box_predictor.bbox_pred"),
    "masks x 1.01": _louder("roi_heads.mask_predictor.mask_fcn_logits"),
}
"""What is done to a network; the tests plant them too."""


def trained(config: Config, base: Path, seconds: float) -> dict[str, Tensor]:
    """torchvision's weights after so long, by its own losses; half of the frames are mirrored."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    split = open_split(config, base, "train")
    network = theirs(config).train()
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-4)
    began, step, rng = time.monotonic(), 0, np.random.default_rng(0)
    while (done := (time.monotonic() - began) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 50) * (0.51 + 0.49 * np.cos(np.pi * done))
        pairs = [_pair(split, int(index), bool(rng.random() < 0.5)) for index in rng.integers(0, len(split), BATCH)]
        losses: dict[str, Tensor] = network([image for image, _ in pairs], [target for _, target in pairs])
        loss = torch.stack([*losses.values()]).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 5)
        optimiser.step()
        step += 1
        if step % 50 == 1:
            told = ", ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            print(f"step {step}, {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.0f}: {told}", flush=True)
    return network.eval().state_dict()


def theirs(config: Config) -> MaskRCNN:
    """torchvision's network of the parts that ours is made of, which it normalises and never resizes for."""
    ours: Any = build_for(config.model, draft_contract(config))
    size = (config.input.height, config.input.width)
    whole = MaskRCNN(ours.backbone, 2, rpn_anchor_generator=ours.rpn.anchor_generator, fixed_size=size)
    whole.rpn, whole.roi_heads = ours.rpn, ours.roi_heads
    whole.rpn._pre_nms_top_n["training"], whole.rpn._post_nms_top_n["training"] = 400, 200
    whole.roi_heads.fg_bg_sampler.batch_size_per_image = 32
    return whole


def _pair(split: Split, index: int, mirrored: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """An image 3xHxW from 0 to 1, and its things as torchvision wants them."""
    frame, ids = split.sample(index)
    if mirrored:
        frame, ids = frame[:, ::-1], ids[:, ::-1]
    things = things_in(ids)
    target = {
        "boxes": torch.tensor([thing.box for thing in things], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([thing.label for thing in things], dtype=torch.int64),
        "masks": torch.from_numpy(np.stack([ids == thing.code for thing in things]).astype(np.uint8)),
    }
    return torch.from_numpy(frame.copy()).permute(2, 0, 1) / 255, target


if __name__ == "__main__":
    main()
