"""Somebody else's ONNX becomes a run directory, and goes all the way to masks."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from segpipe.contract.schema import METADATA_KEY, Contract
from segpipe.errors import DataError, InputError
from segpipe.media.images import write_image
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.segmenter import Segmenter
from stages import import_model
from stages.config.data import FolderData
from stages.config.file import load_config, parse_config
from stages.data import fingerprint
from stages.data.check import refuse_broken
from stages.pipeline import Selection, run_stages
from stages.report import write_report
from stages.results.gate import read_report as read_gate
from tests.calling import call
from tests.children import PATIENCE_S, ROOT, SEGPIPE
from tests.importing import CLASSES, imported, write
from tests.tiny_graphs import FLOAT, constant, graph, plain, weights


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


def test_external_data_beside_the_file_is_taken_in(tmp_path: Path) -> None:
    paths = write(tmp_path, plain())
    onnx.save(plain(), paths[0], save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size > 0

    import_model.run(tmp_path / "run", *paths)

    (tmp_path / "weights.bin").unlink()
    stored = onnx.load_model_from_string(RunDirectory(tmp_path / "run").artifact_bytes("import", "model.onnx"))
    assert stored.graph.initializer[0].raw_data == plain().graph.initializer[0].raw_data


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


def test_images_without_masks_or_a_train_split_serve_the_probe_and_the_gate_and_nothing_else(tmp_path: Path) -> None:
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 24, 3), np.uint8)
        write_image(tmp_path / "frames" / "val" / "images" / f"{number}.png", pixels)
    run = imported(tmp_path, plain(), data={"kind": "folder", "root": "frames", "masks": ""}).path

    done = run_stages(run, load_config(run, ["build.targets=[]"]), run, Selection(last="validate"))
    checked = call("data", "check", run)
    evaluated = call("evaluate", run)

    report = read_gate(done.artifact_bytes("validate", "report.json"), "it", "again")
    unjudged = {check.name: check.why_not for hop in report.hops.values() for check in hop.checks if check.why_not}
    assert load_config(run).export.fp32_islands == ("auto",)
    assert done.record("validate").figures["judged"] == "fidelity, not accuracy"
    assert "no labels" in unjudged["iou_drop"]
    assert checked[0] == 0, checked
    assert evaluated[0] == 1
    assert "evaluate needs masks, and [data] masks is empty" in evaluated[2]


def test_training_needs_masks_and_a_train_split(tmp_path: Path) -> None:
    classes = {"kind": "folder", "root": "frames", "classes": ["a", "b"]}
    frames = {"height": 16, "width": 24}
    write_image(tmp_path / "frames" / "val" / "images" / "a.png", np.zeros((16, 24, 3), np.uint8))
    write_image(tmp_path / "frames" / "val" / "masks" / "a.png", np.zeros((16, 24), np.uint8))
    without = parse_config({"data": {**classes, "masks": ""}, "input": frames}, "it")
    labelled = parse_config({"data": classes, "input": frames}, "it")
    cache = tmp_path / "checked"

    with pytest.raises(DataError, match=r"training needs masks"):
        refuse_broken(without, tmp_path, cache, fingerprint(without, tmp_path, None))
    with pytest.raises(DataError, match=r"the train split in .* is empty"):
        refuse_broken(labelled, tmp_path, cache, fingerprint(labelled, tmp_path, None))
