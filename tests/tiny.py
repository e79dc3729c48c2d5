"""The smallest run that passes through every stage: seconds on one core, deterministic."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.config.file import load_config
from stages.config.root import Config


@dataclass(frozen=True)
class Size:
    """How much a test's run trains."""

    frames: int = 16
    val: int = 4
    width: int = 4
    epochs: int = 3
    batch_size: int = 4


def shapes_toml(size: Size, rest: str) -> str:
    """A run on synthetic shapes; `rest` holds the tables that come after training."""
    return f"""
[data]
kind = "shapes"
height = 48
width = 80
train = {size.frames}
val = {size.val}
test = 4

[input]
height = 64
width = 96

[model]
options = {{ width = {size.width} }}

[train]
epochs = {size.epochs}
batch_size = {size.batch_size}
workers = 0
threads = 1
{rest}"""


SHORTEST_BENCHMARK = """
[benchmark]
frames = 1
rounds = 2
seconds = 2
threads = 1
peers = ["eager", "onnxruntime"]
batches = [1]
callers = [1]
throughput_seconds = 0.01
"""

TOML = shapes_toml(
    Size(),
    """
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
""",
)


def write_toml(directory: Path, toml: str) -> Path:
    """A run directory with this config and nothing done yet."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "segpipe.toml").write_text(toml)
    return directory


def write_tiny(directory: Path) -> Path:
    """A run directory with the tiny config and nothing done yet."""
    return write_toml(directory, TOML)


def tiny_config(directory: Path, *overrides: str) -> Config:
    """The tiny config, written to `directory`."""
    return load_config(write_tiny(directory), overrides)


def contract_fields(**changes: Any) -> dict[str, Any]:
    """A small valid contract's fields."""
    return {"classes": ("ground", "thing", "other"), "network_size": (32, 48), "output_stride": 4, **changes}
