"""The release gate against its targets: `python -m benchmarks.gate runs/gate`. Writes results/gate.json.

200 images of 360x480 with LR-ASPP through PyTorch, ONNX FP32 and FP16 are to take less than 3 minutes and 2 GB on 2
cores, the measures themselves less than 15 % of that. Frames are made up. The network is trained for a minute, so
that its masks have borders, and held to no limits: a failed gate would also search for the layer to blame.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from segpipe.rundir.directory import RunDirectory
from stages.benchmark.machine import machine
from stages.config.file import load_config
from stages.measuring.others import Moment, others_share
from stages.pipeline import Selection, run_stages

RESULTS = Path(__file__).parent / "results" / "gate.json"
MAX_SECONDS, MAX_MB, MAX_MEASURING = 180, 2000, 0.15
HOPS = {"onnx", "fp16"}
_EVERY_S = 0.02

NO_LIMITS = """
[validate.limits]
rounding_factor = 1e9
min_agreement = 0
min_image_agreement = 0
max_flips_inside = 1
max_flips_boundary = 1
max_large_margin_flips = 1
max_iou_drop = 1
max_relative_l2 = 1e9
max_relative_l2_fp32 = 1e9
max_stress_relative_l2 = 1e9
min_reference_miou_share = 0
"""
TOML = """
[data]
kind = "shapes"
height = 360
width = 480
train = 64
val = {images}
test = 1
[input]
height = 368  # LR-ASPP takes multiples of 16
width = 480
fit = "letterbox"
[model]
name = "torchvision/lraspp_mobilenet_v3_large"
[train]
epochs = 6
batch_size = 8
crop_height = 176
crop_width = 240
workers = 0
[validate]
images = {images}
"""


def prepared(path: Path, images: int) -> RunDirectory:
    """A run up to the export; validation images are made while the gate runs."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "segpipe.toml").write_text(TOML.format(images=images) + NO_LIMITS)
    return run_stages(path, load_config(path), path, Selection(last="export"))


def validated(run: RunDirectory) -> dict[str, Any]:
    """`segpipe validate` in a process of its own: seconds with its start, and the most memory it had.

    The system's own figure for children is no use: it counts what this process held when it started them.
    """
    command = [sys.executable, "-c", "from segpipe.cli import main; main()", "validate", str(run.path), "--force"]
    before, started = Moment.now(), time.perf_counter()
    with subprocess.Popen(command, stdout=sys.stderr) as child:
        peak_mb, anonymous_mb = _most_memory(child)
    seconds = time.perf_counter() - started
    if child.returncode:
        raise SystemExit(child.returncode)
    return {
        "seconds": round(seconds, 1),
        "peak_mb": peak_mb,
        "anonymous_mb": anonymous_mb,
        "others_share": others_share(before, Moment.now()),
    }


def _most_memory(child: "subprocess.Popen[bytes]") -> tuple[int, int]:
    """Of a running process until it ends: all pages, and those that lie in no file."""
    found = {"VmHWM": 0, "RssAnon": 0}
    while child.poll() is None:
        lines = (line.split() for line in Path(f"/proc/{child.pid}/status").read_text().splitlines())
        now = {line[0].rstrip(":"): int(line[1]) for line in lines if line[0].rstrip(":") in found}
        found = {name: max(most, now.get(name, 0)) for name, most in found.items()}
        time.sleep(_EVERY_S)
    return round(found["VmHWM"] * 1024 / 1e6), round(found["RssAnon"] * 1024 / 1e6)


def main() -> None:
    """Measure, write down, and say which targets were met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    run = prepared(options.run, options.images)
    measured = validated(run)
    report = json.loads(RunDirectory(options.run).artifact_bytes("validate", "report.json"))
    networks, measures = report["network_seconds"], report["measure_seconds"]
    if set(report["hops"]) != HOPS or report["images"] != options.images:
        raise SystemExit(f"{report['images']} images through {list(report['hops'])}: not what the targets are about")
    share = measures / measured["seconds"]
    met = measured["seconds"] < MAX_SECONDS and measured["peak_mb"] < MAX_MB and share < MAX_MEASURING
    figures = {
        "machine": machine().model_dump(),
        "images": options.images,
        **measured,
        "network_seconds": networks,
        "measure_seconds": measures,
        "measure_share": round(share, 4),
        "targets_met": met,
    }
    options.out.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
