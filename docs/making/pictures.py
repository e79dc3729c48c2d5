"""The pictures of the documentation: `python -m docs.making.pictures [RUN]` writes docs/pictures.

Without a finished run it trains the small one of the tests. The defect is planted, the engine is really built of it,
and the words are the gate's own.
"""

import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import onnx
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from segpipe.draw import colourise
from segpipe.palette import read_palette
from segpipe.runtime.trt.building import BuildRequest, ShapeRange, build_engine
from stages.pipeline import Selection, run_stages
from stages.validate.explaining.suspects import suspect
from tests.good_run import Good
from tests.trained import edit_graph, trained_config

PICTURES = Path(__file__).parents[1] / "pictures"
_COLUMNS = 58  # of text, large enough to be read where the picture is as wide as a telephone


@dataclass(frozen=True)
class Scheme:
    """Colours of a picture's file: of its paper ("none": the page's own), its words, and of good and bad news."""

    file: str
    paper: str
    ink: str
    passed: str
    failed: str


LIGHT = Scheme("gate.png", "#ffffff", "#24292f", "#1a7f37", "#cf222e")
DARK = Scheme("gate-dark.png", "none", "#e6edf3", "#3fb950", "#ff7b72")
Said = tuple[str, str]
"""Words, and the name of their colour in a scheme."""


def main(arguments: list[str]) -> int:
    """All of them."""
    if arguments:
        print(*draw_gate(Good.of(Path(arguments[0]))), sep="\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        run_stages(path, trained_config(path), path, Selection(last="validate"))
        print(*draw_gate(Good.of(path)), sep="\n")
    return 0


def draw_gate(good: Good) -> list[Path]:
    """An exchanged channel: what a plain build says of it, what it does to a mask, and what the gate says.

    Once for each colour scheme.
    """
    graph = exchanged(good.graph())
    answer = good.runtime(graph)
    _, state = good.judge(answer)
    frames = [image for image in good.images if image.labels is not None]
    before = [answered.mask for answered in good.runtime(good.graph())([image.frame for image in frames])]
    after = [answered.mask for answered in answer([image.frame for image in frames])]
    shown = max(range(len(frames)), key=lambda number: _telling(frames[number].labels, before[number], after[number]))
    failed = [check.line() for check in state.checks(good.setup) if check.status == "failed"]
    words = next(text for text in suspect(state, good.contract) if "red and blue" in text)
    palette = read_palette(good.run, "export", good.contract)
    views = [
        ("frame", frames[shown].frame, "ink"),
        ("trained network", colourise(before[shown], palette), "ink"),
        ("to be deployed", colourise(after[shown], palette), "failed"),
    ]
    said = [
        (f"TensorRT for RTX: {built(graph, good)}", "passed"),
        ("ONNX Runtime: opens it and runs", "passed"),
        *((f"segpipe validate: {line.partition(' (commonest')[0]}", "failed") for line in failed[:1]),
        (f"  and {len(failed) - 1} more limits failed; exit code 3", "failed"),
        (f"  {words}", "failed"),
    ]
    wrapped = ((line, ink) for text, ink in said for line in textwrap.wrap(text, _COLUMNS, subsequent_indent="  "))
    lines = list(wrapped)
    return [_page(views, lines, scheme) for scheme in (LIGHT, DARK)]


def _telling(labels: NDArray[Any] | None, before: NDArray[Any], after: NDArray[Any]) -> tuple[bool, float]:
    """How much a frame shows: no class that was missed, then classes, a mask that was right, and one that is not."""
    assert labels is not None
    score = len(np.unique(before)) / 5 + float((before == labels).mean()) + float((before != after).mean())
    return set(np.unique(labels)) <= {*np.unique(before), 255}, score


def exchanged(graph: bytes) -> bytes:
    """The graph with the first and last channel of its first convolution exchanged."""
    model = onnx.load_from_string(graph)
    first = next(node.input[1] for node in model.graph.node if node.op_type == "Conv")
    return edit_graph(graph, lambda name, values: values[:, ::-1].copy() if name == first else values)


def built(graph: bytes, good: Good) -> str:
    """What building an engine of it comes to."""
    size = good.contract.network_size
    assert size is not None, "draw from a run whose network has a size"
    shape = (1, good.contract.channels, *size)
    engine = build_engine(
        "tensorrt-rtx", BuildRequest(graph, good.contract.input_name, [ShapeRange(shape, shape, shape)], ["8.9"])
    )
    warned = f"{len(engine.warnings)} warnings" if engine.warnings else "no warning"
    return f"an engine of {len(engine.plan) / 2**20:.1f} MB, {warned}"


def _page(views: list[tuple[str, NDArray[Any], str]], lines: list[Said], scheme: Scheme) -> Path:
    mpl.use("Agg")
    figure = plt.figure(figsize=(10, 5.3), dpi=120, facecolor=scheme.paper)
    for number, (title, picture, ink) in enumerate(views):
        axes = figure.add_axes((0.01 + number * 0.33, 0.50, 0.32, 0.42))
        axes.imshow(np.asarray(picture), interpolation="nearest", aspect="auto")
        axes.set_title(title, fontsize=20, color=getattr(scheme, ink))
        axes.set_axis_off()
    for number, (line, ink) in enumerate(lines):
        figure.text(0.012, 0.42 - number * 0.067, line, family="monospace", fontsize=19.5, color=getattr(scheme, ink))
    path = PICTURES / scheme.file
    figure.savefig(path, pil_kwargs={"optimize": True}, metadata={"Software": ""})
    plt.close(figure)
    return path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
