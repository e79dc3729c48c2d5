"""The demo: every stage on synthetic data, then the runtime on frames that training never saw."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segpipe import draw
from segpipe.errors import ConfigError, word
from segpipe.id_maps import classes_in
from segpipe.media.images import read_image, write_image
from segpipe.predicting.predict import predict_files
from segpipe.runtime.by_task import open_segmenter
from stages.config.file import FILE_NAME, load_config
from stages.config.root import Config, InstancesConfig
from stages.config.starter import write_starter
from stages.data import open_split
from stages.pipeline import Selection, run_stages
from stages.report import write_report
from stages.results.ending import figure_lines

_FRAMES = 6
TEMPLATES = {"semantic": "demo", "instances": "instances"}
"""Of each task's demo."""


def run_demo(path: Path, overrides: Sequence[str], task: str | None = None) -> list[str]:
    """Run everything that is stale and return the summary's lines. A run that is there has its task."""
    if not (path / FILE_NAME).exists():
        write_starter(path, TEMPLATES[task or "semantic"])
    config = load_config(path, overrides)
    if task not in {None, config.task.kind}:
        raise ConfigError(
            f"{path} is a run for the task '{config.task.kind}'",
            hint=f"name another folder: segpipe demo {word(path)}-{task} --task {task}",
        )
    rundir = run_stages(path, config, path, Selection(overrides=tuple(overrides)))
    sheet = _predict(path, config)
    return [*figure_lines(rundir), f"pictures    {sheet}", f"report      {write_report(rundir)}"]


def _predict(path: Path, config: Config) -> Path:
    """Write test frames as files and segment them as `segpipe predict` does; returns the contact sheet."""
    out, split = path / "pictures", open_split(config, path, "test")
    frames, labels = [], []
    for index in range(min(_FRAMES, len(split))):
        frame, truth = split.sample(index)
        frames.append(out / "frames" / f"{split.name(index)}.png")
        labels.append(truth)
        write_image(frames[-1], frame)
    with open_segmenter(path) as segmenter:
        predicted, broken = predict_files(segmenter, frames, out)
        if broken:
            raise broken[0]
        palette, classes = segmenter.palette, segmenter.contract.classes
    rows = [
        [read_image(p.image), _coloured(truth, palette, config), read_image(p.overlay)]
        for p, truth in zip(predicted, labels, strict=True)
    ]
    width = 3 * rows[0][0].shape[1]
    sheet = draw.contact_sheet(
        rows, ["frame", "label (grey: ignored)", "segpipe"], draw.legend(classes, palette, width)
    )
    write_image(out / "sheet.png", sheet)
    return out / "sheet.png"


def _coloured(truth: NDArray[Any], palette: draw.Palette, config: Config) -> draw.Image:
    """Labels in the classes' colours; of things a line around each."""
    if not isinstance(config.task, InstancesConfig):
        return draw.colourise(truth, palette)
    return draw.outlined(draw.colourise(classes_in(truth), palette), truth)
