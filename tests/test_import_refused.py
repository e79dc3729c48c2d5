"""What is no network that we can take: refused on import with the reason, and no run is left behind."""

import resource
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tomli_w
from onnx import helper

from segpipe.errors import ContractError, InputError, SegpipeError
from segpipe.rundir.directory import RunDirectory
from stages import import_model
from stages.graphs.reading import LARGEST_BYTES
from tests.children import PATIENCE_S, ROOT, SEGPIPE
from tests.importing import CONTRACT, adopted_from, adopted_here, imported, write
from tests.tiny_graphs import FLOAT, constant, conv, graph, plain, weights


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "holds no graph"),
        (plain().SerializeToString()[:-400], "is not"),
        (np.random.default_rng(0).bytes(5000), "is not"),
    ],
    ids=["empty", "truncated", "random"],
)
def test_broken_file_is_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        imported(tmp_path, data)

    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["model.json", "model.textproto", "model.onnxtxt"])
def test_another_format_is_refused_whatever_its_suffix(name: str, tmp_path: Path) -> None:
    onnx_file, contract = write(tmp_path, b'{"no": "protobuf"}')

    with pytest.raises(InputError, match=r"is not ONNX"):
        import_model.run(tmp_path / "run", onnx_file.rename(tmp_path / name), contract)


def test_custom_operator_is_named_and_refused(tmp_path: Path) -> None:
    model = plain()
    model.graph.node[1].domain, model.graph.node[1].op_type = "com.acme", "FancyRelu"

    with pytest.raises(InputError, match=r"node 'relu' is a custom operator, com.acme::FancyRelu"):
        imported(tmp_path, model)


def test_custom_operator_inside_a_branch_is_refused_too(tmp_path: Path) -> None:
    model = plain()
    inner = helper.make_graph(
        [helper.make_node("FancyRelu", ["a"], ["c"], name="fancy", domain="com.acme")],
        "branch", [], [helper.make_tensor_value_info("c", FLOAT, None)],
    )  # fmt: skip
    either = helper.make_node("If", ["yes"], ["b"], name="if", then_branch=inner, else_branch=inner)
    model.graph.node[1].CopyFrom(either)
    model.graph.initializer.append(constant("yes", True, np.bool_))
    model.opset_import.append(helper.make_opsetid("com.acme", 1))

    with pytest.raises(InputError, match=r"node 'fancy' is a custom operator, com.acme::FancyRelu"):
        adopted_here(tmp_path, model)


def test_more_than_one_file_can_hold_is_refused_before_any_weight_is_read(tmp_path: Path) -> None:
    paths = write(tmp_path, plain())
    with paths[0].open("wb") as file:
        file.truncate(LARGEST_BYTES + 1)  # sparse: takes no disk
    with pytest.raises(InputError, match=r"holds 2\.1 GB, one ONNX file can hold 2\.1 GB"):
        import_model.run(tmp_path / "run", *paths)

    outside = plain()
    outside.graph.initializer[0].dims[0] = 10**9
    paths[0].write_bytes(outside.SerializeToString())
    with pytest.raises(InputError, match=r"model\.onnx holds 108\.0 GB"):
        import_model.run(tmp_path / "run", *paths)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_name": "pixels"}, "input 'pixels' is not in the graph.*set input_name to one of: image"),
        ({"output_name": "mask"}, "output 'mask' is not in the graph.*one of: logits"),
        ({"classes": ["a", "b"]}, "4 channels in layout nchw, the contract's 2 classes need 2"),
        ({"input_dtype": "float16"}, "is float32, the contract says float16"),
        ({"network_size": [32, 32]}, "fixed at 16x24 pixels, the contract says 32x32"),
        ({"fit": "pad", "network_size": None}, "fixed at 16x24 pixels, the contract says any size"),
        ({"output_kind": "labels"}, None),
        ({"channels": 1, "mean": [0], "std": [1]}, "has 3 channels in layout nchw, the contract says 1"),
        ({"claases": ["a"]}, "claases: Extra inputs.*known here: "),
        ({"palette": [[1, 2, 3]]}, "palette has 1 colours for 4 classes"),
    ],
)
def test_contract_that_contradicts_the_graph_is_refused(
    changes: dict[str, Any], words: str | None, tmp_path: Path
) -> None:
    if words is None:
        adopted_here(tmp_path, plain(), **changes)  # float labels exist: nothing contradicts
        return
    with pytest.raises(SegpipeError, match=words):
        adopted_here(tmp_path, plain(), **changes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("classes = " + "[" * 5000, "nests tables or lists too deep"),
        (f"ignore_index = {'9' * 5000}", "thousands of digits"),
        (f"ignore_index = 0x{'f' * 5000}", "beyond 64 bits"),
        ("classes = ['a', 'b'", "is not TOML"),
        ("data = 5", "data = 5 is not a table"),
        ("[data]\nkind = 'folder'\nroot = 5\nclasses = ['a', 'b', 'c', 'd']", r"data\.root = 5"),
        ("[data]\nkind = 'folders'", r"data\.kind"),
        ("palette = 7", "palette: Input should be a valid tuple"),
        ("palette = [[0, 0, 256], [1, 1, 1], [2, 2, 2], [3, 3, 3]]", r"palette\.0\.2: .*less than or equal to 255"),
        ("palette = [[0, 0, -1], [1, 1, 1], [2, 2, 2], [3, 3, 3]]", r"palette\.0\.2: .*greater than or equal to 0"),
        ("palette = [['0', 0, 1], [1, 1, 1], [2, 2, 2], [3, 3, 3]]", r"palette\.0\.0: .*valid integer"),
    ],
)  # fmt: skip
def test_a_contract_that_cannot_be_used_is_one_line_and_leaves_no_run(text: str, words: str, tmp_path: Path) -> None:
    model, contract = write(tmp_path, plain())
    contract.write_text(f"{text}\n" if "classes" in text[:9] else tomli_w.dumps(CONTRACT) + text + "\n")

    with pytest.raises(SegpipeError, match=words) as raised:
        import_model.run(tmp_path / "run", model, contract)

    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500
    assert not (tmp_path / "run").exists()


def test_second_input_is_refused(tmp_path: Path) -> None:
    model = plain()
    model.graph.node[1].CopyFrom(helper.make_node("Add", ["a", "more"], ["b"], name="add"))
    model.graph.input.append(helper.make_tensor_value_info("more", FLOAT, [1]))

    with pytest.raises(ContractError, match="needs other inputs too: more"):
        adopted_here(tmp_path, model)


@pytest.mark.parametrize("where", ["../secret.bin", "link.bin", "/etc/hostname"])
def test_external_data_outside_the_folder_is_refused(where: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    paths = write(folder, plain())
    onnx.save(plain(), paths[0], save_as_external_data=True, location="w.bin", size_threshold=0)
    (folder / "w.bin").rename(tmp_path / "secret.bin")
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    model = onnx.load(paths[0], load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = where
    paths[0].write_bytes(model.SerializeToString())

    with pytest.raises(InputError, match="lies outside its folder"):
        adopted_from(*paths)


@pytest.mark.parametrize(
    ("key", "value"),
    [("offset", "abc"), ("offset", "-5"), ("length", "-1"), ("length", "1e3"), ("location", "w\0.bin"),
     ("location", "a" * 300)],
)  # fmt: skip
def test_external_data_described_in_nonsense_is_one_line(key: str, value: str, tmp_path: Path) -> None:
    paths = write(tmp_path, plain())
    onnx.save(plain(), paths[0], save_as_external_data=True, location="w.bin", size_threshold=0)
    model = onnx.load(paths[0], load_external_data=False)
    entries = model.graph.initializer[0].external_data
    kept = [entry for entry in entries if entry.key != key]
    del entries[:]
    entries.extend([*kept, onnx.StringStringEntryProto(key=key, value=value)])
    paths[0].write_bytes(model.SerializeToString())

    with pytest.raises(InputError, match="external data cannot be read") as caught:
        adopted_from(*paths)
    assert "\n" not in str(caught.value)


def test_missing_external_data_is_refused(tmp_path: Path) -> None:
    paths = write(tmp_path, plain())
    onnx.save(plain(), paths[0], save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()

    with pytest.raises(InputError, match="external data cannot be read"):
        import_model.run(tmp_path / "run", *paths)


def test_full_disk_is_one_line_and_leaves_no_run_behind_that_lies(tmp_path: Path) -> None:
    """A file size limit stands for a full disk: the same error path, without needing a small disk."""
    big = graph([conv("image", "w", "logits")], [weights("w", 4, 3, 3, 3), weights("unused", 9)])
    big.graph.node[0].CopyFrom(helper.make_node("Conv", ["image", "wide"], ["logits"], pads=[50, 50, 50, 50]))
    big.graph.initializer.append(weights("wide", 4, 3, 101, 101))
    model, contract = write(tmp_path, big)
    command = [*SEGPIPE, "import", str(model)]

    result = subprocess.run(
        [*command, "--contract", str(contract), "-o", str(tmp_path / "run")],
        capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip

    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("error: cannot write")
    assert "import" not in RunDirectory(tmp_path / "run").manifest.stages
