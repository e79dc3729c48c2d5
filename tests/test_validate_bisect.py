"""Where networks part: the bisection's cost and its answer, the islands it proposes, and the search for the fewest."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.status import run_status
from stages.graphs.islands import choose
from stages.models import checkpoint
from stages.validate import refuse_failures
from stages.validate.explaining.bisect import MAX_RUNS, Side, Tolerance, first_divergence
from stages.validate.explaining.explain import _fp16_advice, enclosing_island
from stages.validate.explaining.inner_tensors import GraphSide
from stages.validate.explaining.search import Islands, Trial, search
from tests.calling import call
from tests.trained import edit_checkpoint, overflowing, replace_output

FP16 = Tolerance(layer=5e-4, network=1e-2)
NODES = 150


def chain(broken: int) -> bytes:
    """A real graph of 150 multiplications by one; from node `broken` on its values are 10 % too large."""
    nodes, weights = [], []
    for index in range(NODES):
        weights.append(helper.make_tensor(f"w{index}", TensorProto.FLOAT, [1], [1.1 if index == broken else 1.0]))
        nodes.append(helper.make_node("Mul", [f"t{index - 1}" if index else "image", f"w{index}"], [f"t{index}"]))
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("image", f"t{NODES - 1}")]
    graph = helper.make_graph(nodes, "chain", tensors[:1], tensors[1:], weights)
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()
    return data


@pytest.mark.parametrize("broken", [0, 1, 7, 74, 75, 148, 149])
def test_a_graph_of_150_nodes_takes_at_most_12_runs(broken: int) -> None:
    order = [f"t{index}" for index in range(NODES)]
    names, tensor = {name: name for name in order}, np.ones(1, np.float32)
    sides = [GraphSide(chain(where), tensor, names) for where in (-1, broken)]

    asked: list[Sequence[str]] = []

    def counted(side: GraphSide) -> Side:
        def run(names: Sequence[str]) -> dict[str, np.ndarray]:
            asked.append(names)
            return side(names)

        return run

    found, runs = first_divergence(order, counted(sides[0]), counted(sides[1]), FP16)

    assert found is not None
    assert found.checkpoint == f"t{broken}"
    assert runs == len(asked) <= MAX_RUNS < 12


def test_networks_that_agree_have_no_first_divergence() -> None:
    side = GraphSide(chain(-1), np.ones(1, np.float32), {"t149": "t149"})

    assert first_divergence(["t149"], side, side, FP16) == (None, 2)


def test_a_bad_branch_behind_a_good_one_is_found() -> None:
    """In the order of execution good checkpoints of another branch lie between the cause and the end."""
    bad = {"b2", "b3", "end"}
    order = ["a1", "b1", "b2", "c1", "c2", "b3", "c3", "end"]

    def ours(names: Sequence[str]) -> dict[str, np.ndarray]:
        return {name: np.ones(3) for name in names}

    def theirs(names: Sequence[str]) -> dict[str, np.ndarray]:
        return {name: np.full(3, np.nan if name in bad else 1.0) for name in names}

    found, _ = first_divergence(order, ours, theirs, FP16)

    assert found is not None
    assert (found.checkpoint, found.error) == ("b2", math.inf)


def test_an_island_is_the_smallest_module_that_hands_on_what_fp16_holds() -> None:
    peaks_ = {"stem.1": 1e5, "stem": 30.0, "down.block.2": 1e5, "down.block": 1e5, "down": 9.0, "head": 1e6}

    assert enclosing_island("stem.1", peaks_, 65504) == "stem"
    assert enclosing_island("down.block.2", peaks_, 65504) == "down"
    assert enclosing_island("head", peaks_, 65504) == ""


@pytest.mark.parametrize(
    ("proposed", "kept", "words"),
    [
        (("stem", ""), (), "try export.fp32_islands = ['stem']"),
        (("stem", "head"), ("stem",), "try export.fp32_islands = ['stem', 'head']"),
        (("stem.1", "stem.0"), ("stem",), "though 'stem.1' is in FP32: keep what lies around it too"),
        (("stem2",), ("stem",), "try export.fp32_islands = ['stem', 'stem2']"),
        (("",), ("stem",), "only the whole network encloses it"),
    ],
)
def test_no_island_is_advised_that_is_one_already(proposed: Islands, kept: Islands, words: str) -> None:
    assert words in _fp16_advice(proposed, kept, 1e5)


def test_an_island_leaves_room_below_the_limit() -> None:
    assert enclosing_island("stem.1", {"stem.1": 3e4, "stem": 30.0}, 16000) == "stem"


def test_bad_checkpoints_everywhere_cost_no_more_runs() -> None:
    """Branch after branch is bad: the search stops in time and names the earliest that it has seen."""
    order = [str(index) for index in range(NODES)]
    ours = {name: np.ones(3) for name in order}
    theirs = {name: np.full(3, 2.0 if index % 9 else 1.0) for index, name in enumerate(order)}

    def side(values: dict[str, np.ndarray]) -> Side:
        return lambda names: {name: values[name] for name in names}

    found, runs = first_divergence(order, side(ours), side(theirs), FP16)

    assert found is not None
    assert runs <= MAX_RUNS


def test_an_island_inside_another_changes_nothing(trained_run: Path) -> None:
    model = onnx.load_model_from_string(RunDirectory(trained_run).artifact_bytes("export", "model.onnx"))
    one, both = (
        {island.node for island in choose(model, names, list, "image")} for names in (["stem"], ["stem.0", "stem"])
    )

    assert one == both != set()


def needing(*needed: str) -> tuple[list[Islands], object]:
    """A judge that fails until all of `needed` are islands, and what it was asked."""
    asked: list[Islands] = []

    def judge(islands: Islands) -> Trial:
        asked.append(islands)
        missing = [name for name in needed if name not in islands]
        proposal = missing[0] if missing else ""
        return Trial(islands, ("non_finite 3",) if missing else (), (proposal,))

    return asked, judge


def test_the_search_adds_what_is_named_and_drops_what_is_not_needed() -> None:
    _, judge = needing("a", "b")
    trials = search(judge, ("x", "a"))  # type: ignore[arg-type]

    assert trials[-1].islands == ("a", "b")
    assert not trials[-1].failed


def test_a_search_without_a_way_out_keeps_the_best_and_tries_nothing_twice() -> None:
    """Each set proposes what the one before it had; the best is in the middle."""
    excess = {(): 9.0, ("a",): 2.0, ("a", "b"): 4.0}
    told: list[Trial] = []

    def judge(islands: Islands) -> Trial:
        return Trial(islands, ("relative_l2 1",), ("a", "b"), excess=excess[islands])

    trials = search(judge, (), told.append)

    assert [trial.islands for trial in told] == [(), ("a",), ("a", "b")]
    assert trials[-1].islands == ("a",)
    assert trials[-1].failed


def test_islands_that_are_not_enough_are_kept_and_told(trained_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing passes a limit of 1e-12: the command fails with the best that it found, again without a search."""
    monkeypatch.setattr("stages.validate.explaining.search.MAX_ISLANDS", 1)  # two trials are enough here
    tight = ("run", trained_copy, "--from", "export", "--until", "validate", "--auto-islands", "--set")
    first, again = (call(*tight, "validate.limits.max_relative_l2=1e-12") for _ in range(2))

    assert first[0] == again[0] == 3
    assert "islands: with []: relative_l2" in first[2]
    assert "no FP32 islands make the FP16 hop pass; the best that was tried, export.fp32_islands=[" in first[2]
    assert "islands: fresh, nothing to do" in again[2]
    assert again[2].splitlines()[-1] == first[2].splitlines()[-1]


def test_auto_islands_repair_an_overflow_and_record_how(trained_copy: Path) -> None:
    """A planted 1e5 activation: the gate fails and names the layer; the search keeps one module in FP32."""
    run = RunDirectory(trained_copy)
    broken = edit_checkpoint(run.artifact_bytes("train", checkpoint.FILE_NAME), overflowing)
    replace_output(run, "train", checkpoint.FILE_NAME, broken)

    code, _, err = call("run", trained_copy, "--from", "export", "--until", "validate")
    assert code == 3
    assert "hop 'fp16': non_finite" in err
    assert "first diverging layer is module 'stem.1' (ONNX node node_Conv" in err
    assert re.search(
        r"fp16_range \d.*\(Conv node_Conv_\d+ \(module stem\.1.*gives [\d.]+e\+\d+, FP16 ends at 65504", err
    )
    assert "its values overflow FP16: try export.fp32_islands = ['stem']" in err
    code, _, err = call("run", trained_copy, "--from", "export", "--until", "validate", "--auto-islands")
    assert code == 0, err
    assert 'export.fp32_islands=["stem"]' in err
    repaired = RunDirectory(trained_copy)
    trials = json.loads(repaired.artifact_bytes("islands", "islands.json"))
    assert [trial["islands"] for trial in trials] == [[], ["stem"]]
    assert "stem.1" in trials[0]["why"]
    refuse_failures(repaired)
    assert {line.stage: line.why for line in run_status(repaired)}["islands"] == ""
    assert call("validate", trained_copy, "--force")[0] == 0, "the gate judges the islands that were exported"


def test_islands_are_not_searched_twice(trained_copy: Path) -> None:
    arguments = ("run", trained_copy, "--from", "export", "--until", "validate", "--auto-islands")
    first, again = call(*arguments), call(*arguments)

    assert first[0] == again[0] == 0
    assert "islands: fresh, nothing to do" in again[2]
    assert "export: fresh, nothing to do" in again[2]
