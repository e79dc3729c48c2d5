"""Limits that are set beside limits that fit the network.

    python -m benchmarks.limits [RUN ...] [--networks NAME ...] [--islands]

Adds to results/limits.md: for each run (on its stored images) and each network by name (random weights, batch
statistics of noise, frames of shapes) what honest FP16 and planted defects give, and which limits fail by either. With
`--islands` each FP16 graph has the FP32 islands that `segpipe run RUN --auto-islands` would find.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from benchmarks.subjects import Subject
from segpipe.artifacts import EXPORT, FP16_GRAPH, FP32_GRAPH
from segpipe.contract.schema import METADATA_KEY, Contract
from segpipe.processor import processor
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.opening import run_contract
from stages.config.file import load_config
from stages.config.root import ExportConfig, ShapesData, ValidateConfig
from stages.data.shapes import ShapesSplit
from stages.export.clean import clean
from stages.export.trace import trace
from stages.graphs.naming import name_nodes
from stages.graphs.reading import to_bytes
from stages.validate.explaining.search import search
from stages.validate.explaining.trials import Bench
from stages.validate.hops.hop import Answer, Answered, Hop
from stages.validate.hops.inputs import RESIZED, Image, resized_beforehand
from stages.validate.hops.opening import open_graph
from stages.validate.hops.pytorch import Reference
from stages.validate.hops.rounded import halved_anew, rounded_bytes
from stages.validate.hops.stored import StoredReference
from stages.validate.judging.judge import Judge, Setup
from tests.good_run import decided
from tests.planted import eight_bits
from tests.trained import edit_graph

RESULTS = Path(__file__).parent / "results" / "limits.md"
HEAD = f"""# Planted defects, by limits that are set and by limits that fit the network

`python -m benchmarks.limits RUN ... --networks NAME ...` on {processor()}.
*own L2*: what rounding alone does to scores, on the worst image. Then which limits fail: *set* are the settings alone,
*fitted* is what the gate holds a hop to. Honest FP16 has to pass by both, a defect has to fail by the fitted ones.
Networks by name have random weights, so their masks have next to no margins, which no limit is
made for: there `masks` says that limits of masks failed. A resize is planted only where frames are resized.

`trained` is the tests' run, `demo` the demo's recipe with 1 epoch of 256 frames, `camvid` the recipe of
results/camvid.md. The last are foreign: what `benchmarks.exporters` left, and MediaPipe's trained portrait networks
(`selfie`, by tf2onnx), imported and judged on CamVid frames, which hold few people.

| network | own L2 | plant | relative L2 | response to the resize | set | fitted |
|---|---:|---|---:|---:|---|---|
"""
_IMAGES, _FRAME, _NETWORK = 4, (96, 160), (128, 192)
_OF_MASKS = {
    "agreement", "image_agreement", "flips_inside", "flips_boundary", "large_margin_flips", "stress_large_margin_flips"
}  # fmt: skip


@dataclass(frozen=True)
class Subjects:
    """Graphs under a contract, and images."""

    name: str
    contract: Contract
    full: bytes
    half: bytes
    images: Sequence[Image]

    @classmethod
    def of_run(cls, path: Path, islands: bool) -> "Subjects":
        """What a validated run holds."""
        run = RunDirectory(path)
        images = [image for image in StoredReference(run).images() if image.name != RESIZED]
        full, half = (run.artifact_bytes(EXPORT, name) for name in (FP32_GRAPH, FP16_GRAPH))
        found = cls(path.name, run_contract(run), full, half, _with_resized(run_contract(run), images))
        return found._with_islands(Bench.of_run(run, load_config(path), path)) if islands else found

    @classmethod
    def of_network(cls, name: str, islands: bool) -> "Subjects":
        """A network by name, traced; FP16 without islands or with those that are found."""
        network, contract = Subject(name, _NETWORK).make()
        graph = clean(trace(network, contract, ExportConfig().opset))
        onnx.helper.set_model_props(graph, {METADATA_KEY: contract.to_json()})
        name_nodes(graph)
        split = ShapesSplit(ShapesData(kind="shapes", height=_FRAME[0], width=_FRAME[1], val=_IMAGES), "val")
        images = [Image(split.name(index), split.sample(index)[0]) for index in range(_IMAGES)]
        full = to_bytes(graph)
        found = cls(f"{name}, random", contract, full, halved_anew(full, None), _with_resized(contract, images))
        if not islands:
            return found
        reference = Reference("PyTorch FP32", open_graph(full, contract), network)
        return found._with_islands(Bench(Setup(contract, ValidateConfig()), full, reference, images))

    def _with_islands(self, bench: Bench) -> "Subjects":
        """The same with the islands that the gate's search finds, in its name."""
        best = search(bench.judge)[-1]
        name = f"{self.name}, {len(best.islands)} islands{' (not enough)' if best.failed else ''}"
        return replace(self, name=name, half=bench.halved(best.islands))


def _with_resized(contract: Contract, images: Sequence[Image]) -> list[Image]:
    resized = resized_beforehand(contract, images[0].frame)
    return [*images, *([] if resized is None else [Image(RESIZED, resized, stress=True)])]


def plants(subject: Subjects) -> dict[str, Answer]:
    """Honest FP16, and what should not pass for it."""

    def rounded(graph: bytes) -> Answer:
        return open_graph(rounded_bytes(graph), subject.contract)

    honest = rounded(subject.half)
    resizes = any(resized_beforehand(subject.contract, image.frame) is not None for image in subject.images)
    return {
        "honest FP16": honest,
        "weights of 8 bits": rounded(edit_graph(subject.half, eight_bits)),
        **({"resize to 8 bits": _resizing(subject.contract, honest)} if resizes else {}),
        "weights of the last layer x 1.01": rounded(edit_graph(subject.half, _last_scaled(subject.half, 1))),
        "weights of the last two layers x 1.01": rounded(edit_graph(subject.half, _last_scaled(subject.half, 2))),
    }


def _resizing(contract: Contract, inner: Answer) -> Answer:
    def answer(frames: Sequence[np.ndarray]) -> list[Answered]:
        resized = [resized_beforehand(contract, frame) for frame in frames]
        found = inner([frame if small is None else small for frame, small in zip(frames, resized, strict=True)])
        return [decided(contract, one.scores, frame) for frame, one in zip(frames, found, strict=True)]

    return answer


def _last_scaled(graph: bytes, layers: int) -> Callable[[str, np.ndarray], np.ndarray]:
    """Scales the last weights of convolutions or products that the graph uses."""
    model = onnx.load_model_from_string(graph)
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 1}
    used = [name for node in model.graph.node for name in node.input if name in weights]
    return lambda name, values: values * 1.01 if name in used[-layers:] else values


def rows(subject: Subjects) -> list[str]:
    """A line of the table for each plant."""
    setup = Setup(subject.contract, ValidateConfig(), batches=())
    own = Hop("own", EXPORT, "", "", "", "", open_graph(rounded_bytes(subject.half), subject.contract), "fp16")
    reference, found = open_graph(subject.full, subject.contract), []
    for plant, answer in plants(subject).items():
        hop = Hop("hop", EXPORT, "", "", "", "", answer, "fp16")
        judge = Judge(setup, reference, [hop], rounded=own)
        for image in subject.images:
            judge.add(image)
        judge.finish()
        measured = judge.states["hop"].measured
        rounding = measured.rounding
        fitted = _failed(judge, setup)
        measured.rounding, follows = None, measured.response.follows
        plain = _failed(judge, setup) - {"resize_response"}
        response = "-" if follows is None else f"{follows:.2f}"
        error = rounding.relative_l2 if rounding else None
        found.append(
            f"| {subject.name} | {error or 0:.2g} | {plant} | {measured.tensors.worst_relative_l2:.2g} | {response} | "
            f"{_said(plain)} | {_said(fitted)} |"
        )
    return found


def _failed(judge: Judge, setup: Setup) -> set[str]:
    return {check.name for check in judge.states["hop"].checks(setup) if check.status == "failed"}


def _said(failed: set[str]) -> str:
    return ", ".join([*sorted(failed - _OF_MASKS), *["masks"] * bool(failed & _OF_MASKS)]) or "passed"


def main() -> None:
    """Add a line a plant to the table, network after network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--networks", nargs="*", default=[])
    parser.add_argument("--islands", action="store_true")
    options = parser.parse_args()
    for subject in _subjects(options.runs, options.networks, options.islands):
        lines = "\n".join(rows(subject)) + "\n"
        RESULTS.write_text(_with_rows(RESULTS.read_text() if RESULTS.exists() else HEAD, lines))
        sys.stdout.write(lines)
        sys.stdout.flush()


def _with_rows(text: str, lines: str) -> str:
    """Below the table's last row, before what is said of it."""
    table, end, words = text.partition("|\n\n")
    return f"{table}|\n{lines}\n{words}" if end else text + lines


def _subjects(runs: Sequence[Path], networks: Sequence[str], islands: bool) -> Iterator[Subjects]:
    """One after the other."""
    for path in runs:
        yield Subjects.of_run(path, islands)
    for name in networks:
        yield Subjects.of_network(name, islands)


if __name__ == "__main__":
    main()
