"""[train]: augmentation, loss, optimisation and what is shown while it runs."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from stages.config.losses import CrossEntropy, Loss, ThingWeights
from stages.config.section import Section, Share

NonNegative = Annotated[float, Field(ge=0)]
Size = tuple[PositiveInt, PositiveInt]


class AugmentConfig(Section):
    """What is drawn at random for each training sample. Masks stay nearest-neighbour; new pixels are ignored."""

    scale_range: tuple[PositiveFloat, PositiveFloat] = (0.75, 1.5)
    """Smallest and largest factor of the size."""
    flip: bool = True
    """Left to right, every second time."""
    flip_vertical: bool = False
    """Top to bottom, every second time."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """To either side, at most."""
    brightness: Share = 0.2
    """The share by which it changes, at most."""
    contrast: Share = 0.2
    """As brightness."""
    saturation: Share = 0.2
    """Of frames with three channels, as is hue."""
    hue: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Degrees."""
    blur: Share = 0.0
    """Probability of a Gaussian blur."""
    erase: Share = 0.0
    """Probability that a rectangle becomes the mean, and its labels ignored."""
    transform: str = ""
    """`package.module:factory` whose result, a torchvision v2 transform, gets the crop as Image and Mask at the end."""

    @model_validator(mode="after")
    def _ordered(self) -> "AugmentConfig":
        if self.scale_range[0] > self.scale_range[1]:
            raise ValueError("scale_range is (smallest, largest)")
        return self


class TrainConfig(Section):
    """Optimisation of the network. `batch_size` is of all processes together."""

    epochs: PositiveInt = 20
    """Passes over the train split."""
    batch_size: PositiveInt = 8
    """Crops a step."""
    accumulate: PositiveInt = 1
    """Batches whose gradients make one step."""
    output: Literal["softmax", "sigmoid"] = "softmax"
    """sigmoid: one output channel and a threshold, for two classes."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of sigmoid: class 1 from this probability on."""

    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    """What turns gradients into steps."""
    learning_rate: PositiveFloat | Literal["find"] = 3e-3
    """"find" runs Lightning's learning-rate finder first."""
    encoder_factor: NonNegative = 1.0
    """What the encoder's learning rate is multiplied with; 0 freezes it."""
    momentum: Share = 0.9
    """Of sgd."""
    weight_decay: NonNegative = 1e-4
    """Of all three optimisers."""
    schedule: Literal["one-cycle", "cosine", "poly", "step", "exponential", "constant"] = "one-cycle"
    """How the learning rate goes over the training."""
    warmup_epochs: NonNegative = 0.0
    """Linear rise before the schedule; one-cycle brings its own (a tenth or this many epochs)."""
    power: PositiveFloat = 0.9
    """Of poly."""
    step_epochs: PositiveInt = 10
    """Of step: epochs between its steps."""
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """What step multiplies with at every step, and exponential with over the whole training."""
    clip_norm: NonNegative = 0.0
    """Largest norm of the gradient; 0 leaves it alone."""
    average: Literal["none", "ema", "swa"] = "none"
    """Weights that are validated and kept: the last, their moving average, or their mean over the end."""
    ema_decay: Share = 0.99
    """What each step keeps of the moving average."""
    swa_share: Share = 0.25
    """The share of the steps, at the end, that swa averages over."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the arithmetic in training; the weights stay in FP32."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Epochs without a better validation mIoU (for things: average precision) after which training stops; 0 trains to
    the end."""

    loss: Annotated[tuple[Loss, ...], Field(min_length=1)] = (CrossEntropy(kind="cross-entropy"),)
    class_weights: Literal["none", "median-frequency", "log-frequency"] | tuple[NonNegative, ...] = "none"
    """What each class counts in the loss: by its frequency, or a number each."""
    things: ThingWeights = ThingWeights()
    """For [task] kind "instances": what each part of its loss counts."""
    auxiliary_weight: NonNegative = 0.4
    """What the loss of each auxiliary output counts, for networks that have some while they train."""

    augment: AugmentConfig = AugmentConfig()
    crop_height: PositiveInt | None = None
    """Of the crops; without it, the network's size."""
    crop_width: PositiveInt | None = None
    """As crop_height."""
    late_crop: Size | None = None
    """Height and width of the crops in the last epochs."""
    late_share: Share = 0.33
    """The share of the epochs, at the end, that uses late_crop."""

    devices: PositiveInt = 1
    """GPUs (or processes on the CPU) of a machine."""
    nodes: PositiveInt = 1
    """Machines."""
    compile: bool = False
    """torch.compile. The last bits of the weights may change."""
    tensorboard: bool = True
    """Write logs for it."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read and augment frames."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads of PyTorch; 0 takes one a core. Other counts may change the last bits of the weights."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """All that is random comes from it."""

    @model_validator(mode="after")
    def _agree(self) -> "TrainConfig":
        if (self.crop_height is None) != (self.crop_width is None):
            raise ValueError("crop_height and crop_width go together")
        if self.learning_rate == "find" and self.devices * self.nodes > 1:
            raise ValueError("learning_rate 'find' works in one process: find it there, then set the number")
        if self.batch_size % (self.devices * self.nodes):
            raise ValueError(
                f"batch_size {self.batch_size} does not divide among {self.devices * self.nodes} processes"
            )
        return self
