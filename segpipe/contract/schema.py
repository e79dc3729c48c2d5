"""Contract: how pixels become numbers and numbers become answers. Owns its fields, their hash and the geometry.

What every network is told about frames is in FrameContract; what it answers is its task's, a type for each task.
"""

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from segpipe.documents import UPGRADE, Form, plain_json
from segpipe.errors import ContractError
from segpipe.id_maps import UNLABELLED
from segpipe.rundir.storage import sha256_of_bytes

METADATA_KEY = "segpipe.contract"  # in ONNX and safetensors metadata
_UNNAMED_TASK = "semantic"
"""The task of contracts that name none: once it was the only one, and their bytes and hashes stay what they are."""
_SHOWN = 40  # characters of a task's name that somebody else wrote

Layout = Literal["nchw", "nhwc"]
HALF_PIXEL: Final = "half-pixel-bilinear"
Resize = Literal["half-pixel-bilinear", "bilinear-8bit", "antialiased", "antialiased-8bit"]
Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


def _later(default: Any) -> Any:
    """A field that contracts got later. At its default no JSON holds it, so the hashes of what exists stay."""
    return Field(default=default, exclude_if=lambda value: value == default)


@dataclass(frozen=True)
class Placement:
    """Where a source frame lies on the network's canvas. All sizes are (height, width) in pixels."""

    source: tuple[int, int]
    canvas: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]

    def whole_canvas(self) -> "Placement":
        """The network's canvas taken as the frame, with the bars that a letterbox added."""
        return Placement(self.canvas, self.canvas, self.canvas, (0, 0))


class FrameContract(BaseModel):
    """What training, export, validation and the runtime must agree on about frames and the network's input.

    Frozen, and equal when its hash is. A task adds what its networks answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    task: ClassVar[str]
    """What the network is for: the name in the tables of tasks, and in the JSON of all tasks but the first."""

    version: Literal[1] = 1
    """Of this description."""
    # frames
    channels: Annotated[int, Field(ge=1)] = 3
    """Of a frame."""
    channel_order: Literal["rgb", "bgr", "as_is"] = "rgb"
    """The order the network wants. Frames of three channels are always handed over as RGB; `as_is` never reorders."""
    dtype: Literal["uint8", "uint16", "float32"] = "uint8"
    """Of a frame."""
    value_range: tuple[float, float] = (0.0, 255.0)
    """The values that become 0 and 1 before mean and std are applied."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Subtracted from each channel."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """What each channel is divided by, after that."""
    # geometry
    resize: Resize = HALF_PIXEL
    """Half-pixel centres, no antialiasing, computed in float32, not rounded. For networks of others: `bilinear-8bit`
    rounds to 8 bits as OpenCV does, `antialiased-8bit` is Pillow's, `antialiased` the same in float32: on CPUs only."""
    fit: Literal["stretch", "letterbox", "pad"] = "stretch"
    """stretch to the network size; letterbox keeps the aspect ratio on it; pad keeps the size, on a multiple."""
    network_size: Size | None = None
    """Height and width of the network's input; not with `pad`."""
    size_multiple: Annotated[int, Field(ge=1)] = 1
    """With `pad`: what height and width are padded to a multiple of."""
    padding: float | None = _later(None)
    """Of a pixel in the bars of `letterbox` and `pad`, on CPUs only; without it they are 0 after mean and std."""
    # the network's input
    input_name: str = "image"
    """Of the tensor."""
    input_layout: Layout = "nchw"
    """nhwc is Keras's."""
    input_dtype: Literal["float32", "float16", "uint8"] = "float32"
    """Type of the input tensor. uint8 takes pixels as they are: mean 0, std 1, value range 0 to 1."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for problem, wrong in self._contradictions().items():
            if wrong:
                raise ValueError(problem)
        return self

    def _contradictions(self) -> dict[str, bool]:
        """What must not be, and whether it is."""
        low, high = self.value_range
        plain = low == 0 and high == 1 and set(self.mean) == {0.0} and set(self.std) == {1.0}
        return {
            f"mean and std need one value for each of {self.channels} channels": {len(self.mean), len(self.std)}
            != {self.channels},
            "std must be positive": min(self.std, default=0) <= 0,
            "value_range must be (low, high) with low < high": not low < high,
            f"channel_order '{self.channel_order}' needs 3 channels": self.channel_order == "bgr"
            and self.channels != 3,
            f"fit '{self.fit}' needs a network_size": self.fit != "pad" and self.network_size is None,
            "fit 'pad' follows the frame: leave network_size out": self.fit == "pad" and self.network_size is not None,
            f"resize '{self.resize}' needs dtype 'uint8'": self.resize.endswith("8bit") and self.dtype != "uint8",
            "padding is for fit 'letterbox' and 'pad'": self.padding is not None and self.fit == "stretch",
            "input_dtype 'uint8' needs mean 0, std 1 and value_range 0 to 1": self.input_dtype == "uint8" and not plain,
        }

    @property
    def output_names(self) -> tuple[str, ...]:
        """Of the network's outputs, in their order."""
        raise NotImplementedError

    @property
    def compared_names(self) -> tuple[str, ...]:
        """Of those outputs BxCxhxw that must be equal wherever the network runs."""
        return self.output_names

    @property
    def only_on_host(self) -> str:
        """What of it the kernels for GPUs do not do; empty where they do everything."""
        if self.resize != HALF_PIXEL:
            return f"resize '{self.resize}'"
        return "" if self.padding is None else f"padding {self.padding:g}"

    @property
    def sha256(self) -> str:
        """SHA-256 of the sorted JSON."""
        return sha256_of_bytes(self.to_json().encode())

    def to_json(self) -> str:
        """Sorted JSON, the form that is hashed and embedded."""
        named = {} if self.task == _UNNAMED_TASK else {"task": self.task}
        return json.dumps(self.model_dump(mode="json") | named, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> Self:
        """Parse an embedded contract, of any task or of this type's; `source` names where it came from in the error."""
        name, hint = f"the contract of {source}", "export the network again"
        content = plain_json(text, name, ContractError, hint)
        if not isinstance(content, dict):
            raise ContractError(f"{name} is no object in JSON", hint=hint)
        task = content.get("task", _UNNAMED_TASK)
        kind = CONTRACTS.get(task) if isinstance(task, str) else None
        if kind is None:
            known = ", ".join(CONTRACTS)
            raise ContractError(f"{name} is for the task {task!r:.{_SHOWN}}, this segpipe knows {known}", hint=UPGRADE)
        if not issubclass(kind, cls):
            hint = f"give a network for the task '{cls.task}'"
            raise ContractError(f"{name} is for the task '{task}', wanted '{cls.task}'", hint=hint)
        if "task" in content:
            text = json.dumps({key: value for key, value in content.items() if key != "task"})
        return Form("contract", TypeAdapter(kind), ContractError).read(text, name, hint)

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any], source: str) -> Self:
        """The contract that an ONNX or safetensors file carries."""
        if METADATA_KEY not in metadata:
            raise ContractError(f"{source} carries no contract", hint="export it with `segpipe export`")
        return cls.from_json(metadata[METADATA_KEY], source)

    def require_same(self, other: "FrameContract", ours: str, theirs: str) -> None:
        """Refuse two artifacts that disagree, naming the first fields that differ."""
        if self.sha256 == other.sha256:
            return
        mine, yours = ({"task": one.task} | one.model_dump() for one in (self, other))
        names = [name for name in mine | yours if mine.get(name) != yours.get(name)]
        example = f"{names[0]} is {mine.get(names[0])!r} against {yours.get(names[0])!r}"
        raise ContractError(
            f"{ours} and {theirs} disagree about the contract ({', '.join(names)}): {example}",
            hint="run `segpipe run` so that both are made from the same network",
        )

    def place(self, height: int, width: int) -> Placement:
        """Lay a frame of this size on the canvas that the network sees."""
        source = (height, width)
        if self.network_size is None:
            canvas = (_round_up(height, self.size_multiple), _round_up(width, self.size_multiple))
            return Placement(source, canvas, source, (0, 0))
        if self.fit == "stretch":
            return Placement(source, self.network_size, self.network_size, (0, 0))
        canvas = self.network_size
        scale = min(canvas[0] / height, canvas[1] / width)
        resized = (max(1, round(height * scale)), max(1, round(width * scale)))
        offset = ((canvas[0] - resized[0]) // 2, (canvas[1] - resized[1]) // 2)
        return Placement(source, canvas, resized, offset)


class SemanticContract(FrameContract):
    """A class for every pixel, from one output."""

    task: ClassVar[str] = "semantic"

    # classes
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    """Names, in the order of the network's outputs."""
    ignore_index: Annotated[int, Field(ge=0, le=65535)] = 255
    """The label value that counts nowhere."""
    unscored: tuple[str, ...] = _later(())
    """Classes that no mean IoU counts: the network answers them, the labels do not know them."""
    # the network's output
    output_stride: Annotated[int, Field(ge=1)] = 1
    """Pixels of the input for one of the output, along a side."""
    output_name: str = "logits"
    """Of the tensor; other outputs are dropped."""
    output_layout: Layout = "nchw"
    """As input_layout."""
    output_kind: Literal["logits", "probabilities", "sigmoid", "labels"] = "logits"
    """What the output holds; logits are scores before a softmax."""
    output_channels: Literal[1] | None = _later(None)
    """1 for `probabilities` of 2 classes in one channel: that of class 1, which is where it is at least `threshold`."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """For one channel. `sigmoid` has raw scores: class 1 where sigmoid(score) is at least this."""

    def _contradictions(self) -> dict[str, bool]:
        return super()._contradictions() | {
            "ignore_index is the number of a class": self.ignore_index < len(self.classes),
            "class names must be text that UTF-8 can hold": any(map(_has_surrogate, self.classes)),
            "class names must differ": len(set(self.classes)) != len(self.classes),
            "unscored names what is no class": not set(self.unscored) <= set(self.classes),
            "unscored names every class": set(self.unscored) >= set(self.classes),
            "output_channels = 1 is for 'probabilities' of 2 classes": self.output_channels == 1
            and (self.output_kind != "probabilities" or len(self.classes) != 2),
            "output_kind 'sigmoid' needs exactly 2 classes": self.output_kind == "sigmoid" and len(self.classes) != 2,
        }

    @property
    def output_names(self) -> tuple[str, ...]:
        """The one that is used."""
        return (self.output_name,)

    @property
    def unscored_numbers(self) -> tuple[int, ...]:
        """The class numbers of `unscored`."""
        return tuple(number for number, name in enumerate(self.classes) if name in self.unscored)

    @property
    def mask_dtype(self) -> Literal["uint8", "uint16"]:
        """Masks are uint8 unless the classes need more."""
        return "uint8" if max(len(self.classes) - 1, self.ignore_index) < 256 else "uint16"

    @property
    def score_channels(self) -> int:
        """Channels of the network's output."""
        return self.output_channels or (1 if self.output_kind in {"sigmoid", "labels"} else len(self.classes))

    @property
    def limit(self) -> float | None:
        """The score from which on one channel means class 1; None where channels compete or labels come."""
        if self.output_kind == "sigmoid":
            return math.log(self.threshold / (1 - self.threshold))
        return self.threshold if self.output_channels == 1 else None


class InstanceContract(FrameContract):
    """The `top` likeliest things of a frame, each with a box, a score, a class and a mask; beside them, where the
    network says it, a class for every pixel."""

    task: ClassVar[str] = "instances"

    # classes
    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=65)]
    """Names, in the order of the semantic output."""
    things: Annotated[tuple[str, ...], Field(min_length=1)]
    """Those classes that are told one by one, in the order of the network's labels."""
    # the network's outputs
    top: Annotated[int, Field(ge=1, le=3840)] = 100
    """Rows of the outputs: no frame gives more things."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """The score from which a row is an answer."""
    boxes_name: str = "boxes"
    """Of the tensor BxKx4: left, top, right and bottom edge in pixels of the network's input."""
    scores_name: str = "scores"
    """Of the tensor BxK: from 0 to 1."""
    labels_name: str = "labels"
    """Of the tensor BxK: numbers in `things`."""
    masks: Literal["none", "canvas", "boxed"] = "canvas"
    """Whether a row's mask covers the network's input or its box; raw scores, the thing is where they are above 0."""
    masks_name: str = "masks"
    """Of the tensor BxKxhxw."""
    output_stride: Annotated[int, Field(ge=1)] = 4
    """Pixels of the input for one of the semantic output, and of masks that cover it, along a side."""
    semantic_name: str = ""
    """Of the tensor BxCxhxw, scores of all classes before a softmax; empty where the network has none."""
    dense_names: tuple[str, ...] = ()
    """Of tensors BxCxhxw from which the rows are picked. The gate compares them: rows change places, these do not."""
    settled_name: str = _later("")
    """Which of them is Bx1x1x1, 1 where the rows are all that there is: for networks that say so of each frame."""

    def _contradictions(self) -> dict[str, bool]:
        names = (self.input_name, *self.output_names)
        return super()._contradictions() | {
            "class names must be text that UTF-8 can hold": any(map(_has_surrogate, self.classes)),
            "class names must differ": len(set(self.classes)) != len(self.classes),
            "things must differ": len(set(self.things)) != len(self.things),
            "things names what is no class": not set(self.things) <= set(self.classes),
            "tensors must have a name each": "" in names or len(set(names)) != len(names),
            "settled_name is none of dense_names": self.settled_name not in {"", *self.dense_names},
        }

    @property
    def output_names(self) -> tuple[str, ...]:
        """Of the network's outputs, in this order."""
        rows = (self.boxes_name, self.scores_name, self.labels_name)
        masks = (self.masks_name,) if self.masks != "none" else ()
        return (*rows, *masks, *((self.semantic_name,) if self.semantic_name else ()), *self.dense_names)

    @property
    def compared_names(self) -> tuple[str, ...]:
        """Those that say something of every place: where rows differ by a last bit, they change places."""
        return (*((self.semantic_name,) if self.semantic_name else ()), *self.dense_names)

    @property
    def thing_numbers(self) -> tuple[int, ...]:
        """The class number of each of `things`."""
        return tuple(self.classes.index(name) for name in self.things)

    @property
    def ignore_index(self) -> int:
        """In id maps."""
        return UNLABELLED

    @property
    def unscored(self) -> tuple[str, ...]:
        """Id maps know every class."""
        return ()

    @property
    def unscored_numbers(self) -> tuple[int, ...]:
        """Of `unscored`."""
        return ()


Contract = SemanticContract
"""The public name."""
AnyContract = SemanticContract | InstanceContract
"""Of a network for any of the tasks."""

CONTRACTS: dict[str, type[FrameContract]] = {kind.task: kind for kind in (SemanticContract, InstanceContract)}
"""The type of each task's contract."""


def read_any(text: str | bytes, source: str) -> AnyContract:
    """Parse the contract of a network for any of the tasks."""
    contract = FrameContract.from_json(text, source)
    assert isinstance(contract, SemanticContract | InstanceContract)
    return contract


def _has_surrogate(text: str) -> bool:
    """Half of a character that UTF-16 writes in two: JSON can hold it, nothing that shows text can."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
