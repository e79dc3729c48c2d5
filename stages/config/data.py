"""[data] and [input]: where frames and labels come from, and how frames become the network's input."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from segpipe.palette import Colours
from stages.config.section import Section


class ShapesData(Section):
    """A synthetic set made on the fly: overlapping shapes on textured backgrounds, the same on every machine."""

    kind: Literal["shapes"]
    height: PositiveInt = 160
    """Of a frame, in pixels."""
    width: PositiveInt = 240
    """Of a frame, in pixels."""
    train: PositiveInt = 400
    """Frames of the split."""
    val: PositiveInt = 60
    """Frames of the split."""
    test: PositiveInt = 60
    """Frames of the split."""
    seed: NonNegativeInt = 1
    """Another number draws other shapes."""


class FileData(Section):
    """What every set of files shares. `root` is relative to the TOML file."""

    root: Path
    """The folder of the set."""
    remap: dict[str, Annotated[int, Field(ge=0, le=65535)]] = Field(default_factory=dict)
    """Label value in the files -> class number or the ignore index; values not named stay as they are."""
    absent_classes: tuple[str, ...] = ()
    """Classes that train or val may lack; any other that never occurs there is an error."""
    unscored: tuple[str, ...] = ()
    """Classes that the labels do not know, as the void of a network of others: no mean IoU counts them."""

    @model_validator(mode="after")
    def _values_are_numbers(self) -> "FileData":
        for value in self.remap:
            if not value.isdecimal() or int(value) > 65535:
                raise ValueError(f"remap names the label value '{value}', which is not a number of 0 to 65535")
        return self


def _require_split(config: FileData, names: tuple[str, ...]) -> None:
    """Of braces a place may hold {split} alone."""
    for name in names:
        try:
            getattr(config, name).format(split="train")
        except (LookupError, ValueError, AttributeError):
            raise ValueError(f"{name} may hold {{split}}, and no other braces") from None


class FolderData(FileData):
    """Images and index masks in folders, paired by their name without suffix; or pairs listed in a text file."""

    kind: Literal["folder"]
    images: str = "{split}/images"
    """Where the images of a split lie below root."""
    masks: str = "{split}/masks"
    """Where its masks lie. Empty: there are none, and the images serve the range probe and the gate of an imported
    network; nothing is trained or evaluated on them."""
    pairs: str = ""
    """A text file a split (`{split}.txt`), an image and a mask a line; empty: pair the folders."""
    names: str = ""
    """A text file a split (`{split}.txt`) with the names, without suffix, that belong to it; empty: all files."""
    masks_are: Literal["indices", "colours", "ids"] = "indices"
    """What a mask's pixels are: class numbers, the colours of the palette, or for [task] kind "instances" 1000 x class
    + thing in 16 bits (thing 0: none; 65535: no label)."""
    ignore_colours: Colours = ()
    """In colour masks: colours that count nowhere."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    """Names, in the order of the class numbers."""
    palette: Colours = ()
    """A colour [red, green, blue] for each class; empty: colours that differ."""
    ignore_index: Annotated[int, Field(ge=0, le=65535)] = 255
    """The label value that counts nowhere."""

    @property
    def has_masks(self) -> bool:
        """Whether images come with labels."""
        return bool(self.masks or self.pairs)

    @model_validator(mode="after")
    def _only_the_split_is_filled_in(self) -> "FolderData":
        _require_split(self, ("images", "masks", "pairs", "names"))
        return self

    @model_validator(mode="after")
    def _colours_are_given(self) -> "FolderData":
        if self.masks_are == "colours" and not self.palette:
            raise ValueError("masks_are 'colours' needs a palette, one colour a class")
        shared = set(self.palette) & set(self.ignore_colours)
        if self.masks_are == "colours" and (shared or len(set(self.palette)) < len(self.palette)):
            raise ValueError("a colour of the palette stands for one class only")
        return self


class CamVidData(FileData):
    """CamVid as split for SegNet: train.txt, val.txt and test.txt with an image and a mask a line, 11 classes."""

    kind: Literal["camvid"]


class CityscapesData(FileData):
    """Cityscapes with fine labels: leftImg8bit/ and gtFine/, 19 classes; its val split serves as test too."""

    kind: Literal["cityscapes"]


class VocData(FileData):
    """Pascal VOC 2012 (the VOC2012 folder), 21 classes; its val split serves as test too."""

    kind: Literal["voc"]


class CocoData(FileData):
    """Things in COCO's JSON, one file a split: polygons, run lengths and crowds, painted in the file's order."""

    kind: Literal["coco"]
    images: str = "{split}2017"
    """Where the images of a split lie below root."""
    annotations: str = "annotations/instances_{split}2017.json"
    """Where its file lies. A set without one for test uses its val split for test."""
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=65)]
    """First the ground, then names of the file's categories; other categories are ground too."""
    palette: Colours = ()
    """A colour [red, green, blue] for each class; empty: colours that differ."""

    @model_validator(mode="after")
    def _only_the_split_is_filled_in(self) -> "CocoData":
        _require_split(self, ("images", "annotations"))
        return self


class PetData(FileData):
    """Oxford-IIIT Pet (images/ and annotations/), 2 classes, outlines ignored; a tenth of trainval is val."""

    kind: Literal["pet"]


DataConfig = Annotated[
    ShapesData | FolderData | CamVidData | CityscapesData | VocData | PetData | CocoData, Field(discriminator="kind")
]


class InputConfig(Section):
    """How frames become the network's input; becomes part of the contract."""

    height: PositiveInt | None = None
    """Of the network's input, in pixels; not with `pad`."""
    width: PositiveInt | None = None
    """As height."""
    fit: Literal["stretch", "letterbox", "pad"] = "stretch"
    """How a frame comes to that size: stretched, letterboxed, or padded to a multiple of the network's."""
    channels: PositiveInt = 3
    """Of a frame."""
    channel_order: Literal["rgb", "bgr", "as_is"] = "rgb"
    """The order the network wants; frames are handed over as RGB."""
    dtype: Literal["uint8", "uint16", "float32"] = "uint8"
    """Of a frame."""
    value_range: tuple[float, float] = (0.0, 255.0)
    """The values that become 0 and 1 before mean and std are applied."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Subtracted from each channel."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """What each channel is divided by, after that."""

    @model_validator(mode="after")
    def _sizes_match_fit(self) -> "InputConfig":
        sized = self.height is not None and self.width is not None
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width go together")
        if sized == (self.fit == "pad"):
            raise ValueError(f"fit '{self.fit}' {'takes no' if sized else 'needs'} height and width")
        return self

    @model_validator(mode="after")
    def _values_fit_channels(self) -> "InputConfig":
        if {len(self.mean), len(self.std)} != {self.channels}:
            raise ValueError(f"mean and std need one value for each of the {self.channels} channels")
        if not self.value_range[0] < self.value_range[1]:
            raise ValueError("value_range must be (low, high) with low < high")
        if self.dtype == "uint16" and self.value_range == (0.0, 255.0):
            raise ValueError("dtype 'uint16' needs its value_range, for example [0, 65535] or [0, 4095]")
        return self
