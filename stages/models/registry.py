"""The networks segpipe knows by name, and what each of them cannot do. Light: torch is not imported here."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from segpipe.errors import ConfigError

Ability = Literal["export", "open_sizes", "fp16_engine", "batch_of_one"]
"""export: ONNX at a fixed size. open_sizes: one graph for every size on the multiple. fp16_engine: TensorRT builds it,
in FP16. batch_of_one: trains with a single image a step."""
ABILITIES: tuple[Ability, ...] = get_args(Ability)


@dataclass(frozen=True)
class Known:
    """A listed network."""

    name: str
    about: str
    cannot: Mapping[Ability, str] = field(default_factory=dict)
    """What it cannot do, and why; the matrix asserts that it really cannot."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options with which it is listed and tested."""

    @property
    def title(self) -> str:
        """The name, with the options that set this entry apart."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])


@dataclass(frozen=True)
class Factory:
    """Where a network is made: `module:attribute`, called with `arguments`, channels, classes and options."""

    target: str
    arguments: tuple[str, ...] = ()


_Limits = Mapping[Ability, str]

_NONE: _Limits = {}
_GLOBAL_NORM: _Limits = {"batch_of_one": "batch norm follows a global pooling: one value a channel has no variance"}

_RESAMPLED: _Limits = {
    "fp16_engine": "position embeddings are resampled by antialiased bicubic, which TensorRT lacks; set img_size"
}
_ONE_SIZE: _Limits = {"open_sizes": "position embeddings are made for img_size"}

_OWN: dict[str, tuple[str, str, _Limits]] = {
    "skipnet": ("stages.models.skipnet:SkipNet", "plain encoder-decoder with skip connections", _NONE),
    "allconv": ("stages.models.allconv:AllConv", "convolutions only: strided, then dilated", _NONE),
    "segnet": ("stages.models.segnet:SegNet", "VGG16 mirrored, pooling indices (2015)", _NONE),
    "ddrnet23_slim": ("stages.models.ddrnet:DDRNet23Slim", "real-time, two branches (2021)", _GLOBAL_NORM),
    "bisenetv2": ("stages.models.bisenet:BiSeNetV2", "real-time, two branches (2021)", _GLOBAL_NORM),
}
_MASK_RCNNS = ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "maskrcnn_mobilenet_v3_large_fpn")
_OF_THINGS = {
    "centremask": Factory("stages.models.centremask:CentreMask"),
    **{f"torchvision/{name}": Factory("stages.models.mask_rcnn.building:build", (name,)) for name in _MASK_RCNNS},
}
"""Networks for [task] kind 'instances'; their factories also take `things` and `top`."""
_TORCHVISION: dict[str, _Limits] = {
    "fcn_resnet50": _NONE,
    "fcn_resnet101": _NONE,
    "deeplabv3_resnet50": _GLOBAL_NORM,
    "deeplabv3_resnet101": _GLOBAL_NORM,
    "deeplabv3_mobilenet_v3_large": _GLOBAL_NORM,
    "lraspp_mobilenet_v3_large": _NONE,
}
_DECODERS = (
    "unet", "unetplusplus", "fpn", "pspnet", "deeplabv3", "deeplabv3plus", "linknet", "manet", "pan", "upernet",
    "segformer", "dpt",
)  # fmt: skip
_ON_RESNET18: dict[str, _Limits] = {
    "unet": _NONE,
    "unetplusplus": _NONE,
    "fpn": _NONE,
    "pspnet": _NONE,
    "deeplabv3": _GLOBAL_NORM,
    "deeplabv3plus": _GLOBAL_NORM,
    "linknet": _NONE,
    "manet": _NONE,
    "pan": _GLOBAL_NORM,
    "upernet": _GLOBAL_NORM,
    "segformer": _NONE,
}
_ENCODERS = (
    "resnet50", "vgg11_bn", "mobilenet_v2", "efficientnet-b0", "densenet121", "mobileone_s0", "se_resnet50",
    "tu-tf_efficientnet_lite0", "tu-mobilenetv3_large_100", "tu-convnext_atto",
)  # fmt: skip


def known_networks() -> list[Known]:
    """The listed networks; `smp/<decoder>/<encoder>` takes many more encoders than are listed."""
    return [
        *(Known(name, about, cannot) for name, (_, about, cannot) in _OWN.items()),
        *(Known(f"torchvision/{name}", "torchvision", cannot) for name, cannot in _TORCHVISION.items()),
        *(Known(f"smp/{decoder}/resnet18", "smp", cannot) for decoder, cannot in _ON_RESNET18.items()),
        *(Known(f"smp/unet/{encoder}", "smp") for encoder in _ENCODERS),
        Known("smp/segformer/mit_b0", "SegFormer-B0, smp"),
        Known("smp/dpt/tu-vit_tiny_patch16_224", "any size", _RESAMPLED),
        Known("smp/dpt/tu-vit_tiny_patch16_224", "one size", _ONE_SIZE, {"img_size": [128, 128]}),
    ]


def find_known(name: str) -> Known | None:
    """The listed network of that name."""
    return next((known for known in known_networks() if known.name == name), None)


def find_factory(name: str) -> Factory:
    """Where the network of this name is made, or an error with the nearest names."""
    if ":" in name:
        return Factory(name)
    if name in _OF_THINGS:
        return _OF_THINGS[name]
    if name in _OWN:
        return Factory(_OWN[name][0])
    family, _, rest = name.partition("/")
    if family == "torchvision" and rest in _TORCHVISION:
        return Factory("stages.models.from_torchvision:TorchvisionNetwork", (rest,))
    decoder, _, encoder = rest.partition("/")
    if family == "smp" and decoder in _DECODERS and encoder:
        return Factory("stages.models.from_smp:build_smp", (decoder, encoder))
    raise ConfigError(f"[model] there is no network '{name}'", hint=_nearest(name))


def refuse_other_task(name: str, task: str) -> None:
    """A listed network is for one task; whoever brings a factory of their own knows what it is for."""
    own = "instances" if name in _OF_THINGS else "semantic"
    if ":" in name or own == task:
        return
    there = ", ".join(_OF_THINGS) if task == "instances" else "skipnet and others, see `segpipe models`"
    raise ConfigError(
        f"[model] {name} is for the task '{own}', [task] kind is '{task}'", hint=f"for that there are {there}"
    )


def networks_of_things() -> tuple[str, ...]:
    """Names of those that tell things one by one."""
    return tuple(_OF_THINGS)


def _nearest(name: str) -> str:
    names = [*(known.name for known in known_networks()), *_OF_THINGS]
    family, _, rest = name.partition("/")
    encoder = rest.partition("/")[2]
    if family == "smp" and encoder:
        names = [f"smp/{known}/{encoder}" for known in _DECODERS]
    begun = [known for known in names if known.startswith(name)]
    near = begun[:3] or difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return "`segpipe models` lists them; or package.module:factory of your own"
