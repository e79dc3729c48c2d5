"""Somebody else's ONNX becomes a run directory, or is refused with the reason."""

import resource
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tomli_w
from onnx import TensorProto, helper

from segpipe.contract.schema import METADATA_KEY, Contract
from segpipe.errors import ContractError, DataError, InputError, SegpipeError
from segpipe.media.images import write_image
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.segmenter import Segmenter
from stages import import_model
from stages.config.data import FolderData
from stages.config.file import load_config
from stages.graphs.reading import LARGEST_BYTES
from stages.pipeline import Selection, run_stages
from stages.report import write_report
from tests.calling import call
from tests.children import PATIENCE_S, ROOT, SEGPIPE
from tests.tiny_graphs import FLOAT, constant, conv, graph, plain, weights

CLASSES = ("background", "disc", "box", "triangle")
CONTRACT = {
    "classes": list(CLASSES), "network_size": [16, 24], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
}  # fmt: skip


def write(folder: Path, model: onnx.ModelProto | bytes, **changes: Any) -> tuple[Path, Path]:
    """model.onnx and contract.toml."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    content = {key: value for key, value in (CONTRACT | changes).items() if value is not None}
    (folder / "contract.toml").write_text(tomli_w.dumps(content), encoding="utf-8")
    return folder / "model.onnx", folder / "contract.toml"


def imported(folder: Path, model: onnx.ModelProto | bytes, **changes: Any) -> RunDirectory:
    import_model.run(folder / "run", *write(folder, model, **changes))
    return RunDirectory(folder / "run")


def keras_like() -> tuple[onnx.ModelProto, dict[str, Any]]:
    """NHWC, uint8 in, probabilities out, opset 13, a second output nobody wants, and a batch norm."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=FLOAT),
        helper.make_node("Transpose", ["pixels"], ["chw"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["chw", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "g", "beta", "mu", "var"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["d"], pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["d"], ["hwc"], perm=[0, 2, 3, 1]),
        helper.make_node("Softmax", ["hwc"], ["probabilities"], axis=-1),
        helper.make_node("GlobalAveragePool", ["c"], ["auxiliary"]),
    ]
    tensors = [
        *(weights("w1", 8, 3, 3, 3, scale=0.3), weights("w2", 4, 8, 3, 3, scale=0.3, seed=1)),
        *(constant("scale", 1 / 255), constant("g", [1.5] * 8), constant("beta", [0.1] * 8)),
        *(constant("mu", [0.2] * 8), constant("var", [0.7] * 8)),
    ]
    outputs: list[tuple[str, int, tuple[Any, ...]]] = [
        ("auxiliary", FLOAT, (1, 8, 1, 1)),
        ("probabilities", FLOAT, (1, 16, 24, 4)),
    ]
    model = graph(nodes, tensors, (1, 16, 24, 3), outputs, opset=13, kind=TensorProto.UINT8)
    changes = {
        "input_layout": "nhwc", "output_layout": "nhwc", "input_dtype": "uint8", "output_kind": "probabilities",
        "output_name": "probabilities", "mean": [0, 0, 0], "std": [1, 1, 1], "value_range": [0, 1],
    }  # fmt: skip
    return model, changes


def labelling() -> tuple[onnx.ModelProto, dict[str, Any]]:
    """An opset-11 network that ends in an argmax."""
    model = plain(11)
    model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["labels"], axis=1, keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("labels", TensorProto.INT64, ["batch", 16, 24]))
    return model, {"output_kind": "labels", "output_name": "labels"}


def scoring() -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Batch-only dynamic, NCHW logits."""
    return plain(), {}


@pytest.mark.parametrize("make", [keras_like, labelling, scoring])
def test_foreign_network_goes_all_the_way_to_masks(make: Any, tmp_path: Path) -> None:
    model, changes = make()
    folder, data = imported(tmp_path, model, **changes).path, tmp_path / "run" / "data"
    for split in ("val", "train", "test"):
        (data / split / "images").mkdir(parents=True)
        (data / split / "masks").mkdir()
        _write_pair(data / split)
    overrides = ["export.fp32_islands=auto", "build.min_fp16_share=1.0", "benchmark.rounds=3", "benchmark.frames=1"]

    finished = run_stages(folder, load_config(folder, overrides), folder, Selection())

    gate = finished.record("validate").figures
    assert gate["agreement"]["onnx"] == 1.0
    assert gate["agreement"]["fp16"] >= 0.995
    assert finished.record("build").figures["tensorrt-rtx"]["fp16_share"] == 1.0
    assert finished.record("benchmark").figures["p50_ms"] > 0
    assert write_report(finished).stat().st_size > 0
    with Segmenter.open(folder) as segmenter:
        mask = segmenter(np.full((40, 50, 3), 128, np.uint8))
    assert mask.shape == (40, 50)
    assert set(np.unique(mask)) <= set(range(len(CLASSES)))


def test_export_folds_batch_norms_keeps_one_output_and_the_opset(tmp_path: Path) -> None:
    model, changes = keras_like()
    run = imported(tmp_path, model, **changes)

    run_stages(run.path, load_config(run.path), run.path, Selection("export", "export"))

    files = RunDirectory(run.path)
    for name in ("model.onnx", "model.fp16.onnx"):
        found = onnx.load_model_from_string(files.artifact_bytes("export", name))
        assert "BatchNormalization" not in {node.op_type for node in found.graph.node}
        assert [value.name for value in found.graph.output] == ["probabilities"]
        assert found.opset_import[0].version == 13
        assert all(node.name for node in found.graph.node)


def test_importing_again_is_fresh_and_another_graph_is_not(tmp_path: Path) -> None:
    first = imported(tmp_path, plain()).record("import")
    again = imported(tmp_path, plain()).record("import")
    other = imported(tmp_path, plain(17)).record("import")

    assert first == again
    assert other.key != first.key


def test_import_without_data_exports_with_weights_probed_and_cannot_be_trained(tmp_path: Path) -> None:
    run = imported(tmp_path, plain())
    config = load_config(run.path)

    finished = run_stages(run.path, config, run.path, Selection("export", "export"))

    assert finished.record("export").figures["fp32_islands"] == 0
    assert config.export.fp32_islands == ("weights",)
    with pytest.raises(InputError, match=r"holds an imported network.*--from export"):
        run_stages(run.path, config, run.path, Selection("train", "train"))


def test_stored_graph_carries_its_contract(tmp_path: Path) -> None:
    run = imported(tmp_path, plain())

    metadata = onnx.load_model_from_string(run.artifact_bytes("import", "model.onnx")).metadata_props
    assert Contract.from_json({entry.key: entry.value for entry in metadata}[METADATA_KEY], "x").classes == CLASSES


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
        imported(tmp_path, model)


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
        imported(tmp_path, plain(), **changes)  # float labels exist: nothing contradicts
        return
    with pytest.raises(SegpipeError, match=words):
        imported(tmp_path, plain(), **changes)


NAMES = ["straße", "🚗 car", 'a "quoted" one', "C:\\path", "tab\tand\nnewline", "\x7f\u2028", "日本\U00020bb7"]


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("names", [NAMES[:4], NAMES[3:]])
def test_class_names_of_any_kind_come_back_from_the_config(names: list[str], with_data: bool, tmp_path: Path) -> None:
    data = {"kind": "folder", "root": "🖼", "classes": names} if with_data else None
    run = imported(tmp_path, plain(), classes=names, data=data)

    config = load_config(run.path)
    assert isinstance(config.data, FolderData)
    assert list(config.data.classes) == names
    assert config.data.root.name == ("🖼" if with_data else "data")


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
        imported(tmp_path, model)


def test_external_data_beside_the_file_is_taken_in(tmp_path: Path) -> None:
    paths = write(tmp_path, plain())
    onnx.save(plain(), paths[0], save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size > 0

    import_model.run(tmp_path / "run", *paths)

    (tmp_path / "weights.bin").unlink()
    stored = onnx.load_model_from_string(RunDirectory(tmp_path / "run").artifact_bytes("import", "model.onnx"))
    assert stored.graph.initializer[0].raw_data == plain().graph.initializer[0].raw_data


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
        import_model.run(tmp_path / "run", *paths)


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
        import_model.run(tmp_path / "run", *paths)
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


def test_command_prints_the_graph_it_stored(tmp_path: Path) -> None:
    model, contract = write(tmp_path, plain())
    command = [*SEGPIPE, "import", str(model)]

    result = subprocess.run(
        [*command, "--contract", str(contract), "-o", str(tmp_path / "run")],
        capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S, check=True,
    )  # fmt: skip

    assert Path(result.stdout.strip()).name == "model.onnx"
    assert (tmp_path / "run" / "segpipe.toml").exists()


def _write_pair(folder: Path) -> None:
    from segpipe.media.images import write_image

    rng = np.random.default_rng(0)
    write_image(folder / "images" / "a.png", rng.integers(0, 256, (40, 50, 3), np.uint8))
    write_image(folder / "masks" / "a.png", rng.integers(0, len(CLASSES), (40, 50)).astype(np.uint8))


def test_without_images_the_gate_says_what_to_write_and_then_judges(tmp_path: Path) -> None:
    run = imported(tmp_path, plain()).path
    with pytest.raises(DataError, match=r'write root = "FOLDER", images = "images" and masks = "masks"') as caught:
        run_stages(run, load_config(run), run, Selection(last="validate"))
    code, _, err = call("evaluate", run)
    for kind in ("images", "masks"):
        for number in range(2):
            pixels = np.full((16, 24, 3), 9 * number, np.uint8) if kind == "images" else np.zeros((16, 24), np.uint8)
            write_image(tmp_path / "frames" / kind / f"{number}.png", pixels)
    added = [f'data.root="{tmp_path / "frames"}"', "data.images=images", "data.masks=masks"]
    done = run_stages(run, load_config(run, added), run, Selection(last="validate"))

    assert str(run / "segpipe.toml") in caught.value.hint
    assert (code, err) == (1, f"error: {caught.value}\n")
    assert done.record("validate").figures["judged"] == "fidelity, not accuracy"
