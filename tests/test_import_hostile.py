"""ONNX made to do harm, or damaged: parsed in a process of its own, refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from segpipe.errors import ContractError, InputError, SegpipeError, StorageError
from stages import import_model
from stages.config.file import load_config
from stages.export.source import imported_contract
from stages.graphs.apart import ChildLimits, call_apart
from stages.graphs.foreign import prove_runs
from stages.pipeline import Selection, run_stages
from tests.hostile_work import chatter, crash, devour, hang, nest, refuse, stumble, wait
from tests.importing import imported, write
from tests.tiny_graphs import FLOAT, constant, plain

ENOUGH = ChildLimits(cpu_s=60, wall_s=300, memory_bytes=1 << 30)
NOT_UTF8 = b"\xff\xfe\xff\xff"


def calling(depth: int) -> onnx.ModelProto:
    """Functions that each call the one before twice."""
    model = plain()
    for level in range(depth):
        domain, name = ("acme", f"f{level - 1}") if level else ("", "Relu")
        nodes = [helper.make_node(name, [a], [b], name=b, domain=domain) for a, b in (("x", "m"), ("m", "y"))]
        imports = [helper.make_opsetid("", 18), helper.make_opsetid("acme", 1)]
        model.functions.append(helper.make_function("acme", f"f{level}", ["x"], ["y"], nodes, imports))
    model.graph.node[1].domain, model.graph.node[1].op_type = "acme", f"f{depth - 1}"
    model.opset_import.append(helper.make_opsetid("acme", 1))
    return model


def with_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    model.metadata_props.add(key="author", value="vvvv")
    return model


def with_sides(*sides: int) -> onnx.ModelProto:
    model = plain()
    model.graph.initializer[0].dims[:] = sides
    return model


def test_functions_that_become_too_many_nodes_are_refused_before_they_are_inlined(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"functions call each other so often that they become 1\.68e\+07 nodes"):
        imported(tmp_path, calling(24))

    assert not (tmp_path / "run").exists()


def test_functions_that_call_functions_become_their_nodes(tmp_path: Path) -> None:
    run = imported(tmp_path, calling(3))

    nodes = onnx.load_model_from_string(run.artifact_bytes("import", "model.onnx")).graph.node
    assert [node.op_type for node in nodes] == ["Conv", *["Relu"] * 8, "Conv"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (plain(9999), r"needs opset 9999, the onnx installed here knows 1 to \d+"),
        (plain(0), "needs opset 0"),
        (with_metadata(plain()).SerializeToString().replace(b"vvvv", NOT_UTF8), r"StringStringEntryProto\.value is b'"),
        (plain().SerializeToString().replace(b"relu", NOT_UTF8), r"NodeProto\.name is b'.*not UTF-8"),
        (plain().SerializeToString().replace(b"image", NOT_UTF8 + b"!"), r"NodeProto\.input is b'.*not UTF-8"),
        (with_sides(-(2**62), 3, 3, 3), "is not valid ONNX"),
    ],
    ids=["future", "zero", "metadata", "node", "input", "sides below 0"],
)
def test_hostile_model_is_refused_in_one_line(model: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as raised:
        imported(tmp_path, model)

    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def looping(trips: int) -> onnx.ModelProto:
    """A loop around the ReLU."""
    count, go = (helper.make_tensor_value_info(*of, []) for of in (("i", TensorProto.INT64), ("go", TensorProto.BOOL)))
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"], name="on"), helper.make_node("Relu", ["x"], ["y"], name="y")],
        "body",
        [count, go, helper.make_tensor_value_info("x", FLOAT, None)],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("y", FLOAT, None)],
    )
    model = plain()
    model.graph.node[1].CopyFrom(helper.make_node("Loop", ["trips", "yes", "a"], ["b"], name="loop", body=body))
    model.graph.initializer.extend([constant("trips", trips, np.int64), constant("yes", True, np.bool_)])
    return model


def test_a_network_that_never_ends_is_refused_before_this_process_runs_it(tmp_path: Path) -> None:
    run = imported(tmp_path, looping(10**12))
    graph, contract = run.artifact("import", "model.onnx"), imported_contract(run)

    with pytest.raises(InputError, match=r"one frame of its smallest shape: no end after 8 s"):
        prove_runs(graph, contract, load_config(run.path).build, limit_s=8)


def test_a_network_that_onnx_runtime_cannot_run_is_one_line_of_export(tmp_path: Path) -> None:
    model = plain()
    model.graph.node[1].CopyFrom(helper.make_node("Gather", ["a", "far"], ["b"], name="gather", axis=1))
    model.graph.initializer.append(constant("far", [*range(7), 99], np.int64))
    run = imported(tmp_path, model)

    with pytest.raises(InputError, match=r"ONNX Runtime cannot run it: .*gather.* build\.profiles") as raised:
        run_stages(run.path, load_config(run.path), run.path, Selection("export", "export"))

    assert "\n" not in str(raised.value)


def test_a_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    model = calling(1)
    model.functions[0].node[0].domain, model.functions[0].node[0].op_type = "acme", "f0"

    with pytest.raises(InputError, match="function 'f0' calls itself"):
        imported(tmp_path, model)


@pytest.mark.parametrize(("which", "kind"), [("model.onnx", InputError), ("contract.toml", StorageError)])
def test_a_directory_is_no_file(which: str, kind: type[SegpipeError], tmp_path: Path) -> None:
    paths = write(tmp_path, plain())
    (tmp_path / which).unlink()
    (tmp_path / which).mkdir()

    with pytest.raises(kind, match=rf"{which}:? is a directory|{which}: Is a directory"):
        import_model.run(tmp_path / "run", *paths)


@pytest.mark.parametrize(
    ("work", "limits", "words"),
    [
        (crash, ENOUGH, r"model\.onnx: the process that worked on it crashed \(SIGSEGV\)"),
        (hang, ChildLimits(1, 300, None), r"model\.onnx: no end after 1 s of processor time"),
        (wait, ChildLimits(60, 1, None), r"model\.onnx: no end after 1 s"),
        (devour, ENOUGH, r"model\.onnx: it takes far more memory than its size explains"),
        (nest, ENOUGH, r"model\.onnx: it is too deeply nested"),
    ],
)
def test_what_happens_in_the_child_is_an_error_here(work: Any, limits: ChildLimits, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call_apart(work, "model.onnx", limits)


def test_an_error_of_the_child_keeps_its_kind_its_words_and_its_hint() -> None:
    with pytest.raises(ContractError, match=r"^a class too many\. change it$"):
        call_apart(refuse, "model.onnx", ENOUGH, reason="a class too many")


def test_a_bug_in_the_child_is_a_bug_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"in stumble[\s\S]*KeyError: 'a key that our own code forgot'"):
        call_apart(stumble, "model.onnx", ENOUGH)


def test_the_answer_is_whole_whatever_a_library_prints() -> None:
    assert call_apart(chatter, "model.onnx", ENOUGH) == b"\x00answer"
