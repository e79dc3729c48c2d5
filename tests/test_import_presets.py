"""Presets: files with the names and layouts that exporters write are imported and answer as those exporters' own way.

The graphs are made anew here, small, and the ways are written from the exporters' documentation, without segpipe.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from torch.nn import functional as F

from segpipe.errors import ContractError, SegpipeError
from segpipe.media.images import write_image
from segpipe.runtime.backends import onnxruntime
from segpipe.runtime.request import OpenOptions, Outputs
from stages.cli.start import PresetName
from stages.graphs.adopting import adopt
from stages.graphs.facts import Facts, Tensor, facts_of
from stages.graphs.presets import PRESETS, contract_fields, guessed, remarks
from stages.import_model import Chosen, read_description
from tests.calling import call
from tests.children import SEGPIPE
from tests.terminal import in_terminal
from tests.tiny_graphs import FLOAT, constant, weights

SIZE = (32, 48)
SAME = 0.99999  # of pixels: where two scores tie, the last bit decides
FRAME = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
A_TENTH_OF_A_POINT = 0.001
Shape = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    """What an exporter writes, and its documented way from a frame to a mask."""

    preset: str
    model: onnx.ModelProto
    own_way: Callable[["Case"], NDArray[Any]]
    given: dict[str, Any] = field(default_factory=dict)

    def answer(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """Of ONNX Runtime, the first output."""
        import onnxruntime as ort

        session = ort.InferenceSession(self.model.SerializeToString(), providers=["CPUExecutionProvider"])
        found: NDArray[Any] = session.run(None, {session.get_inputs()[0].name: tensor})[0]
        return found


def file(
    nodes: list[onnx.NodeProto],
    tensors: list[TensorProto],
    source: tuple[str, Shape],
    outputs: Sequence[tuple[str, int, Shape]],
    producer: str = "pytorch",
    **metadata: str,
) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, kind, list(sides)) for name, kind, sides in outputs]
    image = helper.make_tensor_value_info(source[0], FLOAT, list(source[1]))
    graph = helper.make_graph(nodes, "main", [image], values, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8, producer_name=producer)
    helper.set_model_props(model, metadata)
    return model


def conv(source: str, target: str, classes: int, stride: int = 1) -> tuple[onnx.NodeProto, TensorProto]:
    node = helper.make_node("Conv", [source, "w"], [target], strides=[stride] * 2, pads=[0 if stride > 1 else 1] * 4)
    return node, weights("w", classes, 3, max(stride, 3), max(stride, 3), scale=0.3)


def normalised(mean: Any, std: Any, frame: NDArray[np.uint8] = FRAME) -> NDArray[np.float32]:
    return ((frame / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)


def upsampled(scores: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = F.interpolate(torch.from_numpy(scores), SIZE, mode="bilinear", align_corners=False).numpy()
    return found.argmax(1)[0]


def ultralytics() -> Case:
    node, weight = conv("images", "scores", 3)
    ends = [
        helper.make_node("ArgMax", ["scores"], ["classes"], axis=1, keepdims=0),
        helper.make_node("Cast", ["classes"], ["output0"], to=TensorProto.UINT8),
    ]
    told = {"author": "Ultralytics", "task": "semantic", "imgsz": str([*SIZE])} | {
        "names": "{0: 'road', 1: 'side walk', 2: \"driver's car\"}"
    }
    sides = ("batch", 3, "height", "width")
    outputs = [("output0", TensorProto.UINT8, ("batch", "height", "width"))]
    model = file([node, *ends], [weight], ("images", sides), outputs, **told)
    return Case("ultralytics", model, lambda case: case.answer(normalised(0, 1))[0])


def segformer() -> Case:
    node, weight = conv("pixel_values", "logits", 5, stride=4)
    outputs = [("logits", FLOAT, (1, 5, 8, 12))]
    model = file([node], [weight], ("pixel_values", (1, 3, *SIZE)), outputs)
    return Case("segformer", model, lambda case: upsampled(case.answer(normalised(MEAN, STD))))


def nobg() -> Case:
    node, weight = conv("pixel_values", "logits", 1)
    outputs = [("logits", FLOAT, (1, 1, *SIZE))]
    model = file([node], [weight], ("pixel_values", (1, 3, *SIZE)), outputs)
    return Case("nobg", model, lambda case: 1 / (1 + np.exp(-case.answer(normalised(MEAN, STD))[0, 0])) >= 0.5)


def mmsegmentation() -> Case:
    node, weight = conv("input", "scores", 4)
    labels = helper.make_node("ArgMax", ["scores"], ["output"], axis=1, keepdims=1)
    outputs = [("output", TensorProto.INT64, (1, 1, *SIZE))]
    model = file([node, labels], [weight], ("input", (1, 3, *SIZE)), outputs)
    given = {"classes": ["a", "b", "c", "d"]}
    return Case("mmsegmentation", model, lambda case: case.answer(of_bytes())[0, 0], given)


def of_bytes() -> NDArray[np.float32]:
    """As its data_preprocessor says it."""
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    return ((FRAME - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)


def torchvision() -> Case:
    node, weight = conv("x", "scores", 5, stride=8)
    resize = helper.make_node(
        "Resize", ["scores", "", "scales"], ["upsample_bilinear2d_1"], mode="linear", nearest_mode="floor"
    )
    auxiliary = helper.make_node("Identity", ["scores"], ["upsample_bilinear2d_2"])
    outputs = [("upsample_bilinear2d_1", FLOAT, (1, 5, *SIZE)), ("upsample_bilinear2d_2", FLOAT, (1, 5, 4, 6))]
    scales = constant("scales", [1, 1, 8, 8])
    model = file([node, resize, auxiliary], [weight, scales], ("x", (1, 3, *SIZE)), outputs)
    return Case("torchvision", model, lambda case: case.answer(normalised(MEAN, STD))[0].argmax(0))


def keras(activation: str, channels: int) -> Case:
    node, weight = conv("chw", "scores", channels)
    nodes = [
        helper.make_node("Transpose", ["input_image"], ["chw"], perm=[0, 3, 1, 2]),
        node,
        helper.make_node("Transpose", ["scores"], ["hwc"], perm=[0, 2, 3, 1]),
        helper.make_node(activation, ["hwc"], ["Identity:0"]),
    ]
    outputs = [("Identity:0", FLOAT, ("unk__57", *SIZE, channels))]
    model = file(nodes, [weight], ("input_image", ("unk__56", *SIZE, 3)), outputs, "tf2onnx")

    def own_way(case: Case) -> NDArray[Any]:
        shares = case.answer(FRAME[None].astype(np.float32))[0]
        return shares[..., 0] >= 0.5 if channels == 1 else shares.argmax(-1)

    return Case("keras", model, own_way)


def paddleseg(last: str) -> Case:
    node, weight = conv("x", "scores", 4)
    shares = helper.make_node("Softmax", ["scores"], ["shares"], axis=1)
    labels = helper.make_node("ArgMax", ["scores"], ["labels"], axis=1, keepdims=0)
    output: tuple[str, int, Shape]
    if last == "Softmax":
        ends, output = [shares], ("fetch_name_0", FLOAT, (1, 4, *SIZE))
        shares.output[0] = "fetch_name_0"
    else:
        ends = [labels, helper.make_node("Cast", ["labels"], ["fetch_name_0"], to=TensorProto.INT32)]
        output = ("fetch_name_0", TensorProto.INT32, (1, *SIZE))
    model = file([node, *ends], [weight], ("x", (1, 3, *SIZE)), [output], "")

    def own_way(case: Case) -> NDArray[Any]:
        answer = case.answer(normalised(0.5, 0.5))[0]
        found: NDArray[Any] = answer.argmax(0) if last == "Softmax" else answer
        return found

    return Case("paddleseg", model, own_way, {} if last == "Softmax" else {"classes": ["a", "b", "c", "d"]})


CASES = {
    "ultralytics": ultralytics(),
    "segformer": segformer(),
    "nobg": nobg(),
    "torchvision": torchvision(),
    "mmsegmentation": mmsegmentation(),
    "keras, softmax": keras("Softmax", 5),
    "keras, sigmoid": keras("Sigmoid", 1),
    "paddleseg, softmax": paddleseg("Softmax"),
    "paddleseg, argmax": paddleseg("ArgMax"),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def test_every_preset_has_a_case() -> None:
    assert {case.preset for case in CASES.values()} == set(PRESETS) == set(get_args(PresetName))


@every_case
def test_at_the_networks_size_the_mask_is_that_of_the_exporters_own_way(case: Case, tmp_path: Path) -> None:
    (tmp_path / "contract.toml").write_text("\n".join(f"{key} = {value}" for key, value in case.given.items()))
    described = read_description(tmp_path / "contract.toml", Chosen(case.preset, facts_of(case.model)))
    contract, expected = described.contract, case.own_way(case)
    copy = onnx.ModelProto.FromString(case.model.SerializeToString())
    data = adopt(copy, contract, "it").SerializeToString()

    (found,) = onnxruntime.open(data, contract, OpenOptions(threads=1)).infer([FRAME], Outputs())

    assert contract.network_size == SIZE
    assert len(np.unique(expected)) > 1
    assert (found.mask == expected).mean() >= SAME


@every_case
def test_a_file_is_recognised_by_what_its_exporter_writes(case: Case) -> None:
    assert guessed(facts_of(case.model)) == case.preset


def test_what_the_file_tells_is_taken_and_what_is_given_wins() -> None:
    facts = facts_of(CASES["ultralytics"].model)

    assert contract_fields("ultralytics", facts, {})["classes"] == ["road", "side walk", "driver's car"]
    assert contract_fields("ultralytics", facts, {"mean": [1.0, 2.0, 3.0]})["mean"] == [1.0, 2.0, 3.0]
    assert contract_fields("keras", facts_of(CASES["keras, sigmoid"].model), {})["output_channels"] == 1


_sides = st.lists(st.none() | st.sampled_from([0, -1, 1, 3, 32, 2**63]), max_size=5).map(tuple)
_names = st.sampled_from(["x", "pixel_values", "logits", "input", "output", "output0", "", "\0", "\x1b[2J", "a" * 5000])
_tensors = st.lists(
    st.builds(Tensor, _names, st.booleans(), _sides, st.sampled_from(["", "ArgMax", "Softmax", "Sigmoid"])), max_size=2
).map(tuple)
_literals = st.sampled_from(
    ["", "{}", "[0, -1]", "[1e9, 2]", "[True, True]", "{0: None, 1: [1]}", "[[[", "{0: '\\ud800'}"]
)
_facts = st.builds(
    Facts, st.sampled_from(["pytorch", "tf2onnx", ""]),
    st.dictionaries(st.sampled_from(["author", "task", "imgsz", "names"]), _literals), _tensors, _tensors,
)  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
@settings(max_examples=40, deadline=None)
@given(facts=_facts)
def test_whatever_a_file_tells_gives_a_contract_or_one_line(name: str, facts: Facts) -> None:
    said = guessed(facts)
    try:
        read_description(None, Chosen(name, facts))
    except SegpipeError as error:
        said += str(error)

    assert said.isprintable()


@pytest.mark.parametrize("names", ["{0: 'a', 2: 'b'}", "[" * 9000, "{0: __import__('os')}", "'\\q'", "", "\0"])
def test_metadata_that_names_no_classes_is_passed_over(names: str) -> None:
    model = onnx.ModelProto.FromString(CASES["ultralytics"].model.SerializeToString())
    helper.set_model_props(model, {"author": "Ultralytics", "task": "semantic", "names": names})

    with pytest.raises(ContractError, match="the file does not tell classes"):
        contract_fields("ultralytics", facts_of(model), {"network_size": [*SIZE]})


def test_what_a_file_does_not_tell_is_asked_for() -> None:
    with pytest.raises(ContractError, match="preset 'paddleseg': the file does not tell classes") as caught:
        contract_fields("paddleseg", facts_of(CASES["paddleseg, argmax"].model), {})
    assert "contract.toml" in caught.value.hint


def test_how_the_exporters_code_resizes_is_told_until_it_is_written() -> None:
    assert "resize = 'bilinear-8bit', padding = 114" in remarks("ultralytics", {})[0]
    assert remarks("ultralytics", {"resize": "bilinear-8bit", "padding": 114}) == []


def test_import_by_a_preset_needs_no_contract(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(CASES["segformer"].model.SerializeToString())

    code, out, _ = call("import", tmp_path / "m.onnx", "--preset", "segformer", "-o", tmp_path / "run")

    assert code == 0
    assert Path(out.strip()).is_file()
    assert (tmp_path / "run" / "segpipe.toml").is_file()


def test_evaluate_reproduces_the_figure_that_the_exporters_own_code_gives(tmp_path: Path) -> None:
    """Frames of another size than the network's, with the resize that the preset tells."""
    case, rng, counted = CASES["segformer"], np.random.default_rng(1), np.zeros((5, 5), int)
    (tmp_path / "m.onnx").write_bytes(case.model.SerializeToString())
    (tmp_path / "contract.toml").write_text(
        'resize = "antialiased-8bit"\n[data]\nkind = "folder"\nroot = "data"\n'
        'classes = ["class 0", "class 1", "class 2", "class 3", "class 4"]\n'
    )
    for number in range(3):
        frame, labels = rng.integers(0, 256, (40, 60, 3), np.uint8), rng.integers(0, 5, (40, 60), np.uint8)
        write_image(tmp_path / f"data/val/images/{number}.png", frame)
        write_image(tmp_path / f"data/val/masks/{number}.png", labels)
        small = np.asarray(Image.fromarray(frame).resize(SIZE[::-1], Image.Resampling.BILINEAR))
        scores = torch.from_numpy(case.answer(normalised(MEAN, STD, small)))
        large = F.interpolate(scores, (40, 60), mode="bilinear", align_corners=False)
        np.add.at(counted, (labels, large.numpy().argmax(1)[0]), 1)
    both = np.diag(counted)
    own = float((both / (counted.sum(0) + counted.sum(1) - both)).mean())
    contract = ("--preset", "segformer", "--contract", tmp_path / "contract.toml")
    assert call("import", tmp_path / "m.onnx", *contract, "-o", tmp_path / "run")[0] == 0
    assert call("export", tmp_path / "run")[0] == 0

    code, out, err = call("evaluate", tmp_path / "run", "--split", "val", "--allow-unvalidated", "--json")

    assert code == 0, err
    assert abs(json.loads(out)["mean_iou"] - own) <= A_TENTH_OF_A_POINT


@pytest.mark.parametrize(
    ("producer", "words"),
    [("tf2onnx", "looks like Keras and TensorFlow by tf2onnx, which nobody has confirmed"), ("", "does not tell")],
)
def test_in_a_script_a_guess_is_only_suggested(producer: str, words: str, tmp_path: Path) -> None:
    model = onnx.ModelProto.FromString(CASES["keras, softmax"].model.SerializeToString())
    model.producer_name = producer
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())

    code, _, err = call("import", tmp_path / "m.onnx", "-o", tmp_path / "run")

    assert code == 1
    assert words in err
    assert "--preset" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("n\n", 1)])
def test_in_a_terminal_a_guess_is_shown_and_asked_for(typed: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(CASES["segformer"].model.SerializeToString())
    command = [*SEGPIPE, "import", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "run")]

    found, said = in_terminal(*command, typed=typed)

    assert found == code, said
    assert b"mean = [0.485, 0.456, 0.406]" in said
    assert (tmp_path / "run").exists() == (code == 0)
