"""Contracts of files that known exporters make: what each of them always does, and what a file tells of itself.

Light: the command line reads the names. Each was held to a file that its exporter made (docs/how-to/presets.md).
"""

import ast
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from segpipe.errors import ContractError
from stages.graphs.facts import Facts, Tensor

_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_UNIT = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
_TOML = "write it in a contract.toml and give that with --contract beside --preset"
_MOST_CLASSES = 1000  # a channel is named a class; more are no classes


@dataclass(frozen=True)
class Preset:
    """One exporter."""

    makes: str
    """What it exports, for people."""
    looks_like: Callable[[Facts], bool]
    fields: Mapping[str, Any]
    """Of the contract, the same in each of its files."""
    resizes: Mapping[str, Any]
    """What its own code does with frames of another size, as the contract says it. Told and not set: no GPU does it."""
    layout: str = "nchw"
    remark: str = ""
    """What its files do not tell and people must know."""


def _one_input(facts: Facts, *names: str) -> bool:
    return len(facts.inputs) == 1 and facts.inputs[0].name in names


def _is_of_transformers(facts: Facts) -> bool:
    return _one_input(facts, "pixel_values") and facts.outputs[0].name == "logits"


def _is_matte(source: Tensor, target: Tensor) -> bool:
    """One channel of the input's own size."""
    return len(target.sides) == 4 and target.sides[1] == 1 and target.sides[2:] == source.sides[2:]


PRESETS = {
    "ultralytics": Preset(
        "Ultralytics YOLO, task semantic",
        lambda facts: facts.metadata.get("author") == "Ultralytics" and facts.metadata.get("task") == "semantic",
        {**_UNIT, "fit": "letterbox"},
        {"resize": "bilinear-8bit", "padding": 114},
    ),
    "nobg": Preset(
        "BiRefNet of nobg, for matting",
        lambda facts: _is_of_transformers(facts) and _is_matte(facts.inputs[0], facts.outputs[0]),
        {**_IMAGENET, "fit": "stretch"},
        {"resize": "antialiased-8bit"},
        remark="a matte becomes a mask of what is at least half foreground; threshold says otherwise",
    ),
    "segformer": Preset(
        "SegFormer of Hugging Face transformers",
        lambda facts: _is_of_transformers(facts) and not _is_matte(facts.inputs[0], facts.outputs[0]),
        {**_IMAGENET, "fit": "stretch"},
        {"resize": "antialiased-8bit"},
    ),
    "torchvision": Preset(
        "torchvision.models.segmentation",
        lambda facts: (
            facts.producer == "pytorch"
            and _one_input(facts, "x", "input", "input.1")
            and facts.outputs[0].name.startswith("upsample_bilinear2d")
        ),
        {**_IMAGENET, "fit": "stretch"},
        {"resize": "antialiased-8bit"},
        remark="the first output is taken (`out`); torchvision's own transform keeps the aspect ratio",
    ),
    "mmsegmentation": Preset(
        "MMSegmentation by MMDeploy",
        lambda facts: (
            facts.producer == "pytorch"
            and _one_input(facts, "input")
            and facts.outputs[0].name == "output"
            and facts.outputs[0].last_operator == "ArgMax"
        ),
        {**_IMAGENET, "fit": "stretch"},
        {"resize": "bilinear-8bit"},
        remark="mean and std are those of most of its configurations: data_preprocessor in yours counts",
    ),
    "keras": Preset(
        "Keras and TensorFlow by tf2onnx",
        lambda facts: facts.producer == "tf2onnx",
        {**_UNIT, "value_range": [0.0, 1.0], "fit": "stretch"},
        {},
        layout="nhwc",
        remark="pixels go in as they are, as into model.predict: for a network fed with pixels / 255 write "
        "value_range = [0, 255]",
    ),
    "paddleseg": Preset(
        "PaddleSeg by paddle2onnx",
        lambda facts: facts.producer == "" and _one_input(facts, "x") and facts.outputs[0].name.startswith("fetch_"),
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "fit": "stretch"},
        {"resize": "bilinear-8bit"},
        remark="mean and std are PaddleSeg's default Normalize: the transforms in your deploy.yaml count",
    ),
}
"""By the name that --preset takes."""


def guessed(facts: Facts) -> str:
    """The preset that a file looks like; empty where it is none of them, or no network with one image."""
    if not facts.inputs or not facts.outputs:
        return ""
    return next((name for name, preset in PRESETS.items() if preset.looks_like(facts)), "")


def remarks(name: str, given: Mapping[str, Any]) -> list[str]:
    """What a person who takes this preset should know."""
    preset = PRESETS[name]
    exact = [f"{key} = {value!r}" for key, value in preset.resizes.items() if key not in given]
    told = (
        f"frames of another size are resized otherwise by its own code: {', '.join(exact)} does the same, on CPUs only"
    )
    return [line for line in (told if exact else "", preset.remark) if line]


def contract_fields(name: str, facts: Facts, given: Mapping[str, Any]) -> dict[str, Any]:
    """The contract's fields by this preset and this file; what is `given` wins, and what is missing is asked for."""
    preset = PRESETS[name]
    if not facts.inputs or not facts.outputs:
        raise ContractError("the file has no input or no output", hint="export it again")
    source, target = _chosen(facts.inputs, given.get("input_name")), _chosen(facts.outputs, given.get("output_name"))
    told: dict[str, Any] = {
        **preset.fields,
        "input_name": source.name,
        "input_layout": preset.layout,
        "output_name": target.name,
        "output_layout": preset.layout,
    }
    told |= _kind(target, preset.layout)
    told |= {"network_size": size} if (size := _size(source, preset.layout, facts)) else {}
    told |= {"output_stride": stride} if (stride := _stride(source, target, preset.layout)) else {}
    told |= {"classes": classes} if (classes := _classes(facts, target, preset.layout)) else {}
    fields = told | {**given}
    for key, what in (("classes", '["background", ...]'), ("network_size", "[height, width]")):
        if key not in fields and (key == "classes" or fields["fit"] != "pad"):
            raise ContractError(f"preset '{name}': the file does not tell {key} = {what}", hint=_TOML)
    return fields


def _chosen(tensors: tuple[Tensor, ...], name: Any) -> Tensor:
    """The one of that name, else the first: an auxiliary output comes after."""
    return next((tensor for tensor in tensors if tensor.name == name), tensors[0])


def _side(tensor: Tensor, layout: str, which: str) -> int | None:
    """Channels, height or width; None where they are dynamic or there is no such axis."""
    axes = {"nchw": ("batch", "channels", "height", "width"), "nhwc": ("batch", "height", "width", "channels")}[layout]
    if len(tensor.sides) == 3 and which != "channels":  # labels without a channel
        return tensor.sides[("height", "width").index(which) + 1]
    return tensor.sides[axes.index(which)] if len(tensor.sides) == 4 else None


def _size(source: Tensor, layout: str, facts: Facts) -> list[int] | None:
    sides = [_side(source, layout, which) for which in ("height", "width")]
    if None not in sides:
        return [side for side in sides if side is not None]
    told = _literal(facts.metadata.get("imgsz", ""))
    return told if isinstance(told, list) and len(told) == 2 and all(_is_count(side) for side in told) else None


def _stride(source: Tensor, target: Tensor, layout: str) -> int | None:
    mine, theirs = _side(source, layout, "height"), _side(target, layout, "height")
    return max(round(mine / theirs), 1) if mine and theirs else None


def _kind(target: Tensor, layout: str) -> dict[str, Any]:
    """What the numbers are, by their type, their channels and the last operator."""
    if not target.is_float or target.last_operator == "ArgMax" or len(target.sides) == 3:
        return {"output_kind": "labels"}
    one = _side(target, layout, "channels") == 1
    if target.last_operator in {"Sigmoid", "HardSigmoid"} and one:
        return {"output_kind": "probabilities", "output_channels": 1}
    if target.last_operator == "Softmax":
        return {"output_kind": "probabilities"}
    return {"output_kind": "sigmoid" if one else "logits"}


def _classes(facts: Facts, target: Tensor, layout: str) -> list[str] | None:
    """Names in the metadata, as Ultralytics writes them; else a number for each channel."""
    told = _literal(facts.metadata.get("names", ""))
    if isinstance(told, dict) and [*told] == [*range(len(told))]:
        return [str(name) for name in told.values()]
    count = _side(target, layout, "channels")
    if count is None or not target.is_float or count > _MOST_CLASSES:
        return None
    return ["background", "foreground"] if count == 1 else [f"class {number}" for number in range(count)]


def _literal(text: str) -> Any:
    """A Python literal, as some exporters write into metadata; None for anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
