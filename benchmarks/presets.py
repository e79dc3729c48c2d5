"""Presets beside the exporters' own way, on frames of CamVid.

    python -m benchmarks.presets frames CAMVID FRAMES.npy
    THEIR_PYTHON -m benchmarks.exporters.NAME FRAMES.npy FOLDER/NAME         # each in an environment of its own
    python -m benchmarks.presets compare FRAMES.npy FOLDER

`compare` imports each FOLDER/NAME/model.onnx by its preset, answers the frames by the runtime, and writes
results/presets.md: pixels that equal the exporter's masks at the network's size and of whole frames (with the resize
that the preset tells), how many a wrong contract loses, and the versions.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.exporters.leaving import middle
from segpipe.contract.schema import Contract
from segpipe.processor import processor
from segpipe.runtime.backends import onnxruntime
from segpipe.runtime.request import OpenOptions, Outputs
from stages.graphs.facts import facts_apart
from stages.graphs.foreign import adopted_apart
from stages.graphs.presets import PRESETS, contract_fields, guessed

RESULTS = Path(__file__).parent / "results" / "presets.md"
FRAMES = 20
_WRONG = {"mean": [0.4, 0.45, 0.5], "std": [0.25, 0.25, 0.25], "channel_order": "bgr"}


@dataclass(frozen=True)
class Row:
    """Of one exporter."""

    preset: str
    guess: str
    classes: int
    fitting: float
    worst: float
    whole: float | None
    wrong: float
    versions: Mapping[str, str]


def compare(folder: Path, frames: NDArray[np.uint8]) -> Row:
    """What its script left, beside ours."""
    told, theirs = json.loads((folder / "told.json").read_text()), np.load(folder / "masks.npz")
    model, name = folder / "model.onnx", folder.name
    facts = facts_apart(model)
    plain = contract_fields(name, facts, told["contract"])
    fitting = middle(frames, tuple(told["size"]))
    equal = _equal(model, plain, fitting, theirs["fitting"])
    whole = None
    if "whole" in theirs:
        whole = float(np.mean(_equal(model, plain | dict(PRESETS[name].resizes), frames, theirs["whole"])))
    wrong = _equal(model, plain | _WRONG, fitting, theirs["fitting"])
    return Row(
        preset=name,
        guess=guessed(facts),
        classes=len(np.unique(theirs["fitting"])),
        fitting=float(np.mean(equal)),
        worst=min(equal),
        whole=whole,
        wrong=float(np.mean(wrong)),
        versions=told["versions"],
    )


def _equal(model: Path, fields: Mapping[str, Any], frames: NDArray[Any], theirs: NDArray[Any]) -> list[float]:
    """The share of equal pixels, of each frame."""
    contract = Contract.model_validate(fields)
    backend = onnxruntime.open(adopted_apart(model, contract), contract, OpenOptions(threads=1))
    masks = [backend.infer([frame], Outputs())[0].mask for frame in frames]
    return [float((ours == other).mean()) for ours, other in zip(masks, theirs, strict=True)]


def line(row: Row) -> str:
    """Of the table."""
    cells = (
        f"`{row.preset}`",
        "yes" if row.guess == row.preset else f"no ({row.guess or 'nothing'})",
        str(row.classes),
        f"{row.fitting:.7f}",
        f"{row.worst:.6f}",
        "-" if row.whole is None else f"{row.whole:.6f}",
        f"{row.wrong:.2f}",
        ", ".join(f"{name} {version}" for name, version in row.versions.items()),
    )
    return f"| {' | '.join(cells)} |\n"


HEAD = f"""# Presets beside the exporters' own way

`python -m benchmarks.presets` (its text says how), {FRAMES} frames of CamVid's test split, {processor()}.
Shares of pixels that equal the exporter's own masks. Weights are random, and scores are spread so that many classes are
seen. *worst*: of the frame that is least equal. *whole frames*: 360x480, with the resize that the preset tells;
`-`: its own code makes no mask of that size. *wrong contract*: with another mean, std and order of channels; that
has to be noticed.

| preset | guessed | classes seen | equal | worst | whole frames | wrong contract | made by |
|---|---|---:|---:|---:|---:|---:|---|
"""


def _frames(camvid: Path) -> NDArray[np.uint8]:
    paths = sorted((camvid / "test").iterdir())
    chosen = paths[:: len(paths) // FRAMES][:FRAMES]
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in chosen])


def main() -> None:
    """Frames for the exporters, or the table of what they left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["frames", "compare"])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    options = parser.parse_args()
    if options.what == "frames":
        np.save(options.second, _frames(options.first))
        return
    frames = np.load(options.first)
    folders = [options.second / name for name in PRESETS if (options.second / name / "told.json").is_file()]
    rows = []
    for folder in folders:
        rows.append(compare(folder, frames))
        sys.stdout.write(line(rows[-1]))
        sys.stdout.flush()
    RESULTS.write_text(HEAD + "".join(map(line, rows)))


if __name__ == "__main__":
    main()
