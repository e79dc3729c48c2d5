"""Defects planted into a network for things, judged as the gate judges FP16: `python -m benchmarks.things_planted RUN`.

Writes results/things.md (the table, and what the run's own gate says of each hop) and docs/pictures/things.png.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import helper, numpy_helper

from segpipe.artifacts import EXPORT, FP32_GRAPH, ON_CPU
from segpipe.contract.schema import InstanceContract
from segpipe.draw import contact_sheet
from segpipe.media.images import write_image
from segpipe.processor import CPU, processor
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.instance_segmenter import InstanceSegmenter
from segpipe.runtime.opening import any_contract
from stages.config.file import load_config
from stages.data import open_split
from stages.measuring.things import ThingsComparison
from stages.results.gate import read_report
from stages.validate.hops.hop import Hop
from stages.validate.hops.opening import open_graph
from stages.validate.judging.checks import Check
from stages.validate.judging.gate import list_images
from stages.validate.judging.judge import Judge, Setup
from stages.validate.judging.things import HALF, thing_checks

RESULT = Path(__file__).parent / "results/things.md"
PICTURE = Path(__file__).parents[1] / "docs/pictures/things.png"
_SHOWN, _SCALE = 2, 2
_NAMED = 4  # failed limits that a row tells
_OF_THINGS = {check.name for check in thing_checks(ThingsComparison(), HALF)}

Graph = onnx.ModelProto
Plant = Callable[[Graph, InstanceContract], None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="of things, judged: what `segpipe demo RUN --task instances` makes")
    parser.add_argument("--frames", type=int, default=16)
    options = parser.parse_args()
    lines = [*hops(RunDirectory(options.run)), "", *planted(options.run, options.frames)]
    RESULT.write_text("\n".join(lines) + "\n")
    print(*lines, sep="\n")
    draw(options.run)
    return 0


def hops(run: RunDirectory) -> Iterator[str]:
    """What the gate of the run measured."""
    report = read_report(run.artifact_bytes("validate", "report.json"), str(run.path), "judge it with this version")
    yield from ("# Things", "", f"`python -m benchmarks.things_planted RUN` on {processor()}.", "")
    yield from (f"Of `segpipe demo RUN --task instances`, {report.images} frames of its gate:", "")
    yield "| hop | verdict | lost | extra | mask AP | box AP | PQ | mIoU |"
    yield "|---|---|---|---|---|---|---|---|"
    for number, (name, hop) in enumerate(report.hops.items()):
        things = hop.things
        assert things is not None, "judged by an older version: segpipe validate RUN --force"
        if number == 0:
            yield _row(report.reference, "-", "-", "-", *_figures(things.reference))
        yield _row(name, hop.status, things.lost, things.extra, *_figures(things.hop))


def _figures(accuracy: Any) -> list[str]:
    values = (accuracy.mask_ap, accuracy.box_ap, accuracy.pq, accuracy.miou) if accuracy else [None] * 4
    return ["-" if value is None else f"{value:.4f}" for value in values]


def planted(path: Path, frames: int) -> Iterator[str]:
    """Each defect in a graph of its own, held to FP16's limits beside the graph as it is."""
    run, config = RunDirectory(path), load_config(path)
    contract: Any = any_contract(run)
    graph = run.artifact_bytes(EXPORT, FP32_GRAPH)
    reference = open_graph(graph, contract)
    candidates = {name: open_graph(changed(graph, plant, contract), contract) for name, plant in DEFECTS.items()}
    judged = [Hop(n, EXPORT, FP32_GRAPH, "", ON_CPU.name, CPU, answer, "fp16") for n, answer in candidates.items()]
    setup = Setup(contract, config.validate_, batches=())
    judge = Judge(setup, reference, judged)
    for image in islice(list_images(config, path)(), frames):
        judge.add(image)
    judge.finish()
    yield from (f"Planted into the graph, {frames} of the frames, held to the limits of FP16:", "")
    yield from ("| defect | what fails |", "|---|---|")
    for name, state in judge.states.items():
        yield _row(name, _told([check for check in state.checks(setup) if check.status == "failed"]))


def _told(failed: list[Check]) -> str:
    """What is said of things before what is said of masks."""
    failed.sort(key=lambda check: check.name not in _OF_THINGS)
    shown = ", ".join(f"`{check.name}` {check.value:.3g}" for check in failed[:_NAMED])
    return f"{shown} and {len(failed) - _NAMED} more" if len(failed) > _NAMED else shown or "nothing"


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def changed(graph: bytes, plant: Plant, contract: InstanceContract) -> bytes:
    """The graph with a defect in it."""
    model = onnx.load_model_from_string(graph)
    plant(model, contract)
    return model.SerializeToString()


@dataclass(frozen=True)
class Operator:
    """One operator with a constant beside what it changes."""

    kind: str
    constant: Any
    is_table: bool = False
    """Whether the constant is looked up in; it then comes first."""
    axis: int | None = None

    def node(self, model: Graph, source: str, target: str) -> onnx.NodeProto:
        """It, from one tensor to another; its constant becomes the model's."""
        name = f"{target} constant"
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(self.constant), name))
        inputs = [name, source] if self.is_table else [source, name]
        axis: dict[str, Any] = {} if self.axis is None else {"axis": self.axis}
        return helper.make_node(self.kind, inputs, [target], name=f"planted {target}", **axis)


def after(name: str, operator: Operator) -> Plant:
    """Put an operator behind whatever makes a tensor; everybody who reads it gets the result."""

    def plant(model: Graph, contract: InstanceContract) -> None:
        nodes = [*model.graph.node]
        place = next(number for number, node in enumerate(nodes) if name in node.output)
        nodes[place].output[:] = [f"{name} before" if output == name else output for output in nodes[place].output]
        _replace(model, [*nodes[: place + 1], operator.node(model, f"{name} before", name), *nodes[place + 1 :]])

    return plant


def told_as(name: str, operator: Operator) -> Plant:
    """Put an operator behind an output; who reads the tensor inside of the graph gets what it was."""

    def plant(model: Graph, contract: InstanceContract) -> None:
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [f"{name} before" if found == name else found for found in names]
        model.graph.node.append(operator.node(model, f"{name} before", name))

    return plant


def before(*operators: Operator) -> Plant:
    """The same behind the input, one after the other."""

    def plant(model: Graph, contract: InstanceContract) -> None:
        names = [contract.input_name, *(f"{contract.input_name} changed {n}" for n in range(len(operators)))]
        nodes = [*model.graph.node]
        for node in nodes:
            node.input[:] = [names[-1] if name == names[0] else name for name in node.input]
        planted = [own.node(model, *names[n : n + 2]) for n, own in enumerate(operators)]
        _replace(model, [*planted, *nodes])

    return plant


def _replace(model: Graph, nodes: list[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    model.graph.ClearField("node")
    model.graph.node.extend(copies)


def raw_pixels(model: Graph, contract: InstanceContract) -> None:
    """Mean and std left out: undone before the network."""
    mean, std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (contract.mean, contract.std))
    before(Operator("Mul", std), Operator("Add", mean))(model, contract)


def one_cell_right(model: Graph, contract: InstanceContract) -> None:
    """Masks: what was in column 0 is in column 1."""
    sides = next(value for value in model.graph.output if value.name == contract.masks_name).type.tensor_type.shape.dim
    columns = np.roll(np.arange(sides[3].dim_value), 1)
    told_as(contract.masks_name, Operator("Gather", columns, axis=3))(model, contract)


def _scaled(name: str) -> Plant:
    return after(name, Operator("Mul", np.float32(1.01)))


DEFECTS: dict[str, Plant] = {
    "nothing": lambda model, contract: None,
    "boxes one pixel to the right and down": told_as("boxes", Operator("Add", np.float32(1))),
    "classes exchanged in pairs": told_as("labels", Operator("Gather", np.array([1, 0, 3, 2]), is_table=True)),
    "masks one cell to the right": one_cell_right,
    "heat map x 1.01": _scaled("heat"),
    "reach x 1.01": _scaled("reach"),
    "coefficients x 1.01": _scaled("coefficients"),
    "prototypes x 1.01": _scaled("prototypes"),
    "BGR for RGB": before(Operator("Gather", np.array([2, 1, 0]), axis=1)),
    "mean and std left out": raw_pixels,
}


def draw(path: Path) -> None:
    """A few frames, the things in them, and the id map in its classes' colours."""
    split = open_split(load_config(path), path, "val")
    with InstanceSegmenter.open(path, "onnxruntime-cpu") as segmenter:
        frames = [split.sample(number)[0] for number in range(_SHOWN)]
        rows = [[frame, found.overlay(frame), found.colour()] for frame in frames for found in (segmenter(frame),)]
    large = [
        [cv2.resize(one, None, fx=_SCALE, fy=_SCALE, interpolation=cv2.INTER_NEAREST) for one in row] for row in rows
    ]
    sheet = contact_sheet(large, ["frame", "things", "panoptic"])  # type: ignore[arg-type]
    PICTURE.parent.mkdir(exist_ok=True)
    write_image(PICTURE, sheet)


if __name__ == "__main__":
    raise SystemExit(main())
