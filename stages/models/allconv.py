"""The all-convolution stack: no pooling, no skips, no upsampling, only convolutions. Scores at stride 8."""

from torch import Tensor, nn

from stages.models.layers import ConvNormAct


class AllConv(nn.Module):
    """Three strided convolutions, then `dilations` that widen the view without losing resolution, then 1x1."""

    stride = 8
    size_multiple = 8
    encoder_parts = ("down",)
    head_parts = ("head",)

    def __init__(
        self, channels: int, classes: int, width: int = 32, dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 1)
    ) -> None:
        super().__init__()
        self.down = nn.Sequential(
            ConvNormAct(channels, width, stride=2),
            ConvNormAct(width, width),
            ConvNormAct(width, 2 * width, stride=2),
            ConvNormAct(2 * width, 2 * width),
            ConvNormAct(2 * width, 4 * width, stride=2),
        )
        self.context = nn.Sequential(*(_dilated(4 * width, dilation) for dilation in dilations))
        self.head = nn.Conv2d(4 * width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(self.context(self.down(image)))
        return scores


def _dilated(width: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
