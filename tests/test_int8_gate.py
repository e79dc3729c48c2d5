"""The gate holds INT8 to limits of its own, needs labels for it, catches what goes wrong in it and names the layer."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segpipe.artifacts import FP32_GRAPH, INT8_CPU_GRAPH
from segpipe.processor import device_name
from stages.graphs.quantising_cpu import quantised_for_cpu
from stages.graphs.reading import to_bytes
from stages.validate.explaining.int8 import worst_layer
from stages.validate.hops.hop import Answer, Answered, Hop
from stages.validate.hops.inputs import Image
from stages.validate.judging.checks import verdict_of
from stages.validate.judging.judge import HopState, Judge
from tests.good_run import Good
from tests.int8_run import Broken, Narrow, calibrated_on_black, narrow, ranges_of, with_dead_channel


@pytest.fixture(scope="module")
def good(trained_run: Path) -> Good:
    return Good.of(trained_run)


@pytest.fixture(scope="module")
def made(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Narrow:
    return narrow(trained_run, tmp_path_factory.mktemp("int8"))


def judged(good: Good, graph: bytes, images: Sequence[Image] | None = None, answer: Answer | None = None) -> HopState:
    answer = answer or good.runtime(graph)
    hop = Hop("int8", "export", INT8_CPU_GRAPH, "0" * 64, "onnxruntime-cpu-int8", device_name("int8"), answer, "int8")
    judge = Judge(good.setup, good.stored, [hop])
    for image in images or good.images:
        judge.add(image)
    judge.finish()
    return judge.states["int8"]


def failures(good: Good, state: HopState) -> list[str]:
    return [check.line() for check in state.checks(good.setup) if check.status == "failed"]


def named(good: Good, made: Narrow, graph: bytes, full: bytes | None = None) -> str:
    state = judged(good, graph)
    files = {FP32_GRAPH: full or to_bytes(made.graphs.full), INT8_CPU_GRAPH: graph}
    return worst_layer(state.hop, files.__getitem__, next(made.frames.tensors()))


def test_an_honest_int8_graph_passes(good: Good, made: Narrow) -> None:
    state = judged(good, made.cpu)

    assert failures(good, state) == []
    assert verdict_of(state.checks(good.setup)) == "passed"
    assert "no layer stands out" in named(good, made, made.cpu)


def test_without_labels_int8_is_not_judged_and_says_why(good: Good, made: Narrow) -> None:
    state = judged(good, made.cpu, [replace(image, labels=None) for image in good.images])
    checks = state.checks(good.setup)

    assert verdict_of(checks) == "not judged"
    assert "labelled images" in next(check for check in checks if check.name == "miou_drop").why_not
    assert next(check for check in checks if check.name == "calibration_rise").status == "not judged"


def test_a_drop_whose_interval_reaches_beyond_the_limit_fails(good: Good, made: Narrow) -> None:
    limits = good.setup.settings.limits.model_copy(update={"max_miou_drop_int8": 0.0})
    setup = replace(good.setup, settings=good.setup.settings.model_copy(update={"limits": limits}))
    graph = Broken(made.cpu)
    graph.change(graph.ends("node_conv2d_16", 1)[1], lambda scale: scale * np.linspace(0.5, 1.5, scale.size))
    state = judged(good, graph.bytes())

    check = next(check for check in state.checks(setup) if check.name == "miou_drop")

    assert check.status == "failed"
    assert "95 % interval" in check.where


def test_a_network_that_is_less_sure_than_it_is_right_fails_by_its_calibration(good: Good, made: Narrow) -> None:
    """The same masks from scores that hardly differ: only the labels tell."""
    answer = good.runtime(made.cpu)

    def unsure(frames: Sequence[np.ndarray]) -> list[Answered]:
        return [replace(one, scores=one.scores / 100) for one in answer(frames) if one.scores is not None]

    honest, timid = (
        next(check for check in state.checks(good.setup) if check.name == "calibration_rise")
        for state in (judged(good, made.cpu), judged(good, made.cpu, answer=unsure))
    )

    assert honest.status == "passed"
    assert timid.status == "failed"
    assert re.fullmatch(r"0\.\d{4} became 0\.\d{4}", timid.where)


def doubled_scale(made: Narrow, node: str) -> bytes:
    graph = Broken(made.cpu)
    graph.change(graph.ends(node, 1)[1], lambda scale: scale * 2)
    return graph.bytes()


def zero_point_one(made: Narrow, node: str) -> bytes:
    graph = Broken(made.cpu)
    graph.change(graph.ends(node, 1)[2], np.ones_like)
    return graph.bytes()


def exchanged_ranges(made: Narrow, node: str) -> bytes:
    """With those of the network's input."""
    graph = Broken(made.cpu)
    first = made.graphs.full.graph.node[0].name
    for mine, theirs in zip(graph.ends(node, 0)[1:], graph.ends(first, 0)[1:], strict=True):
        graph.exchange(mine, theirs)
    return graph.bytes()


@pytest.mark.parametrize("plant", [doubled_scale, zero_point_one, exchanged_ranges, calibrated_on_black])
def test_a_planted_defect_fails_and_its_layer_is_named(
    plant: Callable[[Narrow, str], bytes], good: Good, made: Narrow
) -> None:
    node = "node_Conv_237"  # down1.4: early enough that all after it sees what is wrong
    graph = plant(made, node)

    assert failures(good, judged(good, graph))
    wanted = {node, made.graphs.full.graph.node[0].name} if plant is exchanged_ranges else {node}
    assert any(f"(ONNX node {name})" in named(good, made, graph) for name in wanted)


def test_a_depthwise_layer_with_one_scale_for_all_channels_fails_and_is_named(good: Good, made: Narrow) -> None:
    full, node = with_dead_channel(made.graphs.full)
    honest = to_bytes(quantised_for_cpu(full, ranges_of(full, made), ()))
    graph = Broken(honest)
    numbers, scale, _ = graph.ends(node, 1)
    floats = graph.values(numbers) * graph.values(scale).reshape(-1, 1, 1, 1)
    one = np.abs(floats).max() / 64
    graph.change(scale, lambda old: np.full_like(old, one))
    graph.change(numbers, lambda _: np.rint(floats / one))

    assert failures(good, judged(good, honest)) == []
    assert failures(good, judged(good, graph.bytes()))
    assert f"layer '{node}'" in named(good, made, graph.bytes(), to_bytes(full))
