"""The gate's memory and what it leaves: `python -m benchmarks.gate_memory CAMVID runs/memory`.

Writes results/gate_memory.json. All 101 validation images of CamVid, 360x480, 11 classes at stride 1, go through a
network so small that what is measured is the gate: less than 1 GB at its peak, less than 20 MB kept. The network is
hardly trained and held to no limits.
"""

import argparse
import json
from pathlib import Path

from torch import nn

from benchmarks.gate import NO_LIMITS, validated
from segpipe.rundir.directory import RunDirectory
from stages.benchmark.machine import machine
from stages.config.file import load_config
from stages.pipeline import Selection, run_stages

RESULTS = Path(__file__).parent / "results" / "gate_memory.json"
MAX_MB, MAX_KEPT_MB = 1000, 20
TOML = """
[data]
kind = "camvid"
root = {root}
[input]
height = 360
width = 480
[model]
name = "benchmarks.gate_memory:tiny"
[train]
epochs = 1
batch_size = 8
crop_height = 96
crop_width = 96
workers = 0
[validate]
images = 1000
"""


class Tiny(nn.Sequential):
    """Two convolutions at the frame's own size."""

    stride, size_multiple = 1, 1


def tiny(channels: int, classes: int) -> nn.Module:
    """The network."""
    return Tiny(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 3, padding=1))


def main() -> None:
    """Measure, write down, and say whether the targets were met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("camvid", type=Path)
    parser.add_argument("run", type=Path)
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    (options.run / "segpipe.toml").write_text(TOML.format(root=json.dumps(str(options.camvid.resolve()))) + NO_LIMITS)
    run = run_stages(options.run, load_config(options.run, ()), options.run, Selection(last="export"))
    measured = validated(run)
    outputs = RunDirectory(options.run).record("validate").outputs
    kept_mb = sum(output.size_bytes for output in outputs.values()) / 1e6
    figures = {
        "machine": machine().model_dump(),
        **measured,
        "kept_mb": round(kept_mb, 1),
        "files_mb": {name: round(output.size_bytes / 1e6, 2) for name, output in outputs.items()},
        "targets_met": measured["peak_mb"] < MAX_MB and kept_mb < MAX_KEPT_MB,
    }
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
