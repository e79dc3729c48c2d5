"""The smallest run that passes through every stage: seconds on one core, deterministic."""

from pathlib import Path
from typing import Any

from stages.config import Config
from stages.config_file import load_config

TOML = """
[data]
kind = "shapes"
height = 48
width = 80
train = 16
val = 4
test = 4

[input]
height = 64
width = 96

[model]
options = { width = 4 }

[train]
epochs = 3
batch_size = 4
workers = 0
threads = 1

[validate]
images = 4

[validate.limits]  # an almost untrained network has tiny margins: rounding flips more of it
min_agreement = 0.9
max_flips_inside = 0.1
max_iou_drop = 0.2

[benchmark]
frames = 2
rounds = 3
seconds = 5
threads = 1
peers = ["eager", "half", "onnxruntime"]
batches = [1, 2]
callers = [1, 2]
throughput_seconds = 0.05
"""


def write_tiny(directory: Path) -> Path:
    """A run directory with the tiny config and nothing done yet."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "segpipe.toml").write_text(TOML)
    return directory


def tiny_config(directory: Path, *overrides: str) -> Config:
    """The tiny config, written to `directory`."""
    return load_config(write_tiny(directory), overrides)


def contract_fields(**changes: Any) -> dict[str, Any]:
    """A small valid contract's fields."""
    return {"classes": ("ground", "thing", "other"), "network_size": (32, 48), "output_stride": 4, **changes}
