"""What a person looks at: augmented samples, curves, the confusion matrix, best and worst frames. All are PNGs."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from segpipe import draw
from segpipe.contract.schema import AnyContract
from segpipe.instances import Instances, class_contract
from segpipe.media.images import write_png
from segpipe.metrics import Confusion
from segpipe.result import Result
from stages.config.root import Config
from stages.data import Split
from stages.models.checkpoint import Trained
from stages.pages.sheets import Legend, Row, encode_sheet
from stages.tasks import offline_task_of
from stages.train.augment import shown
from stages.train.dataset import TrainingSet

_CELL = (240, 320)  # height and width of a picture on a sheet
_KEPT = 4  # best and worst frames
_SAMPLES = 12  # augmented ones


@dataclass(frozen=True)
class Shot:
    """A frame with its labels and the network's mask."""

    name: str
    frame: NDArray[Any]
    labels: NDArray[Any]
    mask: NDArray[Any]
    things: Instances | None = None
    """What was found one by one; labels and mask are then the classes of the pixels."""
    ids: NDArray[Any] | None = None
    """The labels' things."""

    @property
    def figure(self) -> str:
        """What frames are ranked by."""
        return "IoU" if self.things is None or self.things.contract.masks == "none" else "PQ"


@dataclass
class Gallery:
    """The frames with the highest and the lowest figure so far: IoU, of things panoptic quality."""

    best: list[tuple[float, Shot]] = field(default_factory=list)
    worst: list[tuple[float, Shot]] = field(default_factory=list)

    def consider(self, figure: float, shot: Shot) -> None:
        """Keep the frame while it is among the extremes. Frames without labels have no figure."""
        if np.isnan(figure):
            return
        self.best = sorted([*self.best, (figure, shot)], key=lambda entry: -entry[0])[:_KEPT]
        self.worst = sorted([*self.worst, (figure, shot)], key=lambda entry: entry[0])[:_KEPT]


def write_sheet(path: Path, split: Split, contract: AnyContract, config: Config, palette: draw.Palette) -> None:
    """Augmented samples as training sees them, with their labels, before the first step."""
    samples, task = TrainingSet(split, contract, config.train), offline_task_of(contract)
    cells = []
    for number in range(_SAMPLES):
        image, labels, _ = samples[(number // len(split), number * len(split) // _SAMPLES % len(split))]
        pixels = draw.displayable(shown(image.numpy(), contract), contract.value_range)
        mask = task.class_numbers(labels)
        cells.append((_resized(pixels), _resized(draw.overlay(pixels, mask, palette))))
    rows = [Row("", (*left, *right)) for left, right in zip(cells[::2], cells[1::2], strict=True)]
    titles = ("sample", "labels (grey: ignored)") * 2
    write_png(path, encode_sheet(rows, titles, [Legend(contract.classes, palette)], _CELL))


_TITLES = {"val_miou": "validation mIoU", "val_ap": "validation AP"}


def curves_png(history: Sequence[dict[str, float]], headline: str) -> bytes:
    """Loss, the headline's figure and learning rate by epoch."""
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    panels = (("loss", "training loss"), (headline, _TITLES[headline]), ("learning_rate", "learning rate"))
    for axes, (key, title) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axes.plot(epochs, [row[key] for row in history], marker="." if len(epochs) < 40 else "")
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
    return _png(figure)


def confusion_png(matrix: Confusion, classes: Sequence[str]) -> bytes:
    """Rows are labels, columns predictions; colours and numbers are shares of the row in percent."""
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = 2.5 + 0.45 * len(classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axes.set(xlabel="prediction", ylabel="label", title="Test split: share of the label's pixels in %")
    axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    for row, column in np.argwhere(shares >= 0.5):
        share = shares[row, column]
        axes.text(column, row, f"{share:.0f}", ha="center", va="center", color="white" if share > 50 else "black")
    return _png(figure)


def overlays_png(shots: Sequence[tuple[float, Shot]], trained: Trained) -> bytes:
    """A row for each shot, under its name."""
    contract, palette = trained.contract, trained.palette
    rows = [Row(f"{shot.name}: {shot.figure} {value:.3f}", views_of(shot, contract, palette)) for value, shot in shots]
    titles = ("frame", "label (grey: ignored)", "network", "wrong pixels")
    return encode_sheet(rows, titles, [Legend(contract.classes, palette)], _CELL)


def views_of(shot: Shot, trained_for: AnyContract, palette: draw.Palette) -> tuple[draw.Image, ...]:
    """Frame, labels, mask or things, and the wrong pixels in red, all of one size."""
    contract = class_contract(trained_for)
    frame = draw.displayable(shot.frame, contract.value_range)
    wrong = frame // 3
    wrong[(shot.labels != shot.mask) & (shot.labels != contract.ignore_index)] = (255, 40, 40)
    labels, mask = (Result(numbers, contract, palette).overlay(shot.frame) for numbers in (shot.labels, shot.mask))
    if shot.things is not None and shot.ids is not None:
        labels, mask = draw.outlined(labels, shot.ids), shot.things.shown_with(palette, "rgb").overlay(shot.frame)
    return tuple(_resized(picture) for picture in (frame, labels, mask, wrong))


def _resized(picture: draw.Image) -> draw.Image:
    """Any size to the largest that a cell holds, the aspect ratio kept."""
    scale = min(_CELL[0] / picture.shape[0], _CELL[1] / picture.shape[1])
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return cv2.resize(picture, (width, height), interpolation=interpolation).astype(np.uint8)


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=100, metadata={"Software": None})
    return target.getvalue()
