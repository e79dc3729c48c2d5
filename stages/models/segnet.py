"""SegNet (Badrinarayanan et al. 2015): VGG16 and its mirror image, joined by pooling indices. Scores at stride 1."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # VGG16: channels and convolutions before each pooling

Keep = tuple[Tensor, Tensor, Tensor, Tensor]


class SegNet(nn.Module):
    """`width` 64 is the paper's. The encoder has the keys of torchvision's `vgg16_bn().features`."""

    stride = 1
    size_multiple = 32
    encoder_parts = ("encoder",)
    head_parts = ("head",)

    def __init__(self, channels: int, classes: int, width: int = 64) -> None:
        super().__init__()
        stages = [(count * width // 64, repeats) for count, repeats in _STAGES]
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        incoming = channels
        for number, (outgoing, repeats) in enumerate(stages):
            down += [*_convolutions(incoming, outgoing, repeats, outgoing), IndexedPool()]
            target = incoming if number else outgoing
            up = [IndexedUnpool(), *_convolutions(outgoing, outgoing, repeats, target), *up]
            incoming = outgoing
        self.encoder = nn.Sequential(*down)
        self.decoder = nn.Sequential(*up)
        self.head = nn.Conv2d(stages[0][0], classes, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        features, kept = image, list[Keep]()
        for layer in self.encoder:
            if isinstance(layer, IndexedPool):
                features, keep = layer(features)
                kept.append(keep)
            else:
                features = layer(features)
        for layer in self.decoder:
            features = layer(features, kept.pop()) if isinstance(layer, IndexedUnpool) else layer(features)
        scores: Tensor = self.head(features)
        return scores


class IndexedPool(nn.Module):
    """2x2 maximum, and four masks that say where it was: the first of equals, as MaxPool2d's indices do."""

    def forward(self, features: Tensor) -> tuple[Tensor, Keep]:
        x0, x1, x2, x3 = (features[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
        right, lower_right = x1 > x0, x3 > x2
        lower = torch.maximum(x2, x3) > torch.maximum(x0, x1)
        keep = (~right & ~lower, right & ~lower, ~lower_right & lower, lower_right & lower)
        return F.max_pool2d(features, 2), keep


class IndexedUnpool(nn.Module):
    """Each value back to where the maximum was, zeros elsewhere: equal to MaxUnpool2d, and TensorRT takes it."""

    def forward(self, features: Tensor, keep: Keep) -> Tensor:
        cells = torch.stack([features * mask.to(features.dtype) for mask in keep], 2)
        return F.pixel_shuffle(cells.flatten(1, 2), 2)


def _convolutions(channels: int, width: int, repeats: int, last: int) -> list[nn.Module]:
    """`repeats` convolutions with bias, as in VGG; the last one has `last` channels."""
    widths = [*[width] * (repeats - 1), last]
    layers: list[nn.Module] = []
    for incoming, outgoing in zip([channels, *widths], widths, strict=False):
        layers += [nn.Conv2d(incoming, outgoing, 3, padding=1), nn.BatchNorm2d(outgoing), nn.ReLU(inplace=True)]
    return layers
