"""The demo: every stage on synthetic data, then the runtime on frames that training never saw."""

from collections.abc import Sequence
from pathlib import Path

from segpipe import draw
from segpipe.images import read_image, write_image
from segpipe.predict import predict_files
from segpipe.rundir import RunDirectory
from segpipe.runtime.segmenter import Segmenter
from stages.config import Config
from stages.config_file import FILE_NAME, load_config
from stages.data import open_split
from stages.pipeline import Selection, run_stages
from stages.report import write_report
from stages.starter import write_starter

_FRAMES = 6


def run_demo(path: Path, overrides: Sequence[str]) -> list[str]:
    """Run everything that is stale and return the summary's lines."""
    if not (path / FILE_NAME).exists():
        write_starter(path, "demo")
    config = load_config(path, overrides)
    rundir = run_stages(path, config, path, Selection(overrides=tuple(overrides)))
    sheet = _predict(path, config)
    return [*_summary(rundir), f"pictures    {sheet}", f"report      {write_report(rundir)}"]


def _predict(path: Path, config: Config) -> Path:
    """Write test frames as files and segment them as `segpipe predict` does; returns the contact sheet."""
    out, split = path / "pictures", open_split(config, path, "test")
    frames, labels = [], []
    for index in range(min(_FRAMES, len(split))):
        frame, truth = split.sample(index)
        frames.append(out / "frames" / f"{split.name(index)}.png")
        labels.append(truth)
        write_image(frames[-1], frame)
    with Segmenter.open(path) as segmenter:
        predicted, _ = predict_files(segmenter, frames, out)
        palette, classes = segmenter.palette, segmenter.contract.classes
    rows = [
        [read_image(p.image), draw.colourise(truth, palette), read_image(p.overlay)]
        for p, truth in zip(predicted, labels, strict=True)
    ]
    width = 3 * rows[0][0].shape[1]
    sheet = draw.contact_sheet(
        rows, ["frame", "label (grey: ignored)", "segpipe"], draw.legend(classes, palette, width)
    )
    write_image(out / "sheet.png", sheet)
    return out / "sheet.png"


def _summary(rundir: RunDirectory) -> list[str]:
    train, gate = rundir.record("train").figures, rundir.record("validate").figures
    engines = [
        f"{name}: {entry['fp16_share']:.0%} of {entry['compute_layers']} compute layers in FP16, "
        f"{entry['engine_bytes'] / 1e6:.1f} MB"
        for name, entry in rundir.record("build").figures.items()
    ]
    agreement = ", ".join(f"{name} {gate['agreement'][name]:.4%}" for name in ("onnx", "fp16"))
    return [
        f"accuracy    mIoU {train['test_miou']:.4f} on held-out frames",
        f"engine      {'; '.join(engines) or 'none built'}",
        f"agreement   {agreement} of pixels equal to PyTorch FP32: the release gate passed",
        _latency(rundir),
    ]


def _latency(rundir: RunDirectory) -> str:
    """Our best, and PyTorch eager beside it where that could be measured."""
    figures = rundir.record("benchmark").figures
    line = f"latency     {figures['p50_ms']:.2f} ms a frame end to end"
    if "faster_than_eager" in figures:
        ratio, low, high = figures["faster_than_eager"]
        line += f", PyTorch eager takes {ratio:.2f} times as long ({low:.2f} to {high:.2f})"
    return line
