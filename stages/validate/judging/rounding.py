"""What rounding alone does to a network on the judged images, and the limits that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


class ImageRounding(BaseModel):
    """One image through the network's FP32 graph with every result rounded to FP16, beside the reference."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stress: bool
    relative_l2: float | None
    """None where there are no scores, or where rounding made them no numbers."""
    pixels: int
    flips: int
    band_pixels: int
    band_flips: int


REFUSED = ImageRounding(stress=True, relative_l2=None, pixels=0, flips=0, band_pixels=0, band_flips=0)
"""A stress input that the rounded graph does not take."""


@dataclass(frozen=True)
class Rounding:
    """Of all judged images: the worst error of scores, and shares of pixels that flipped. None: nothing is known."""

    relative_l2: float | None
    stress_relative_l2: float | None
    flips: float | None
    image_flips: float | None
    flips_inside: float | None
    flips_boundary: float | None

    @classmethod
    def over(cls, images: Sequence[ImageRounding | None]) -> "Rounding | None":
        """Worst errors and common shares; None where an image has not been tried."""
        tried = [image for image in images if image is not None]
        if not tried or len(tried) < len(images):
            return None
        real = [image for image in tried if not image.stress]
        inside = [(image.flips - image.band_flips, image.pixels - image.band_pixels) for image in real]
        return cls(
            relative_l2=_worst(real),
            stress_relative_l2=_worst([image for image in tried if image.stress and image.pixels]),
            flips=_share([(image.flips, image.pixels) for image in real]),
            image_flips=max((_share([(image.flips, image.pixels)]) or 0.0 for image in real), default=None),
            flips_inside=_share(inside),
            flips_boundary=_share([(image.band_flips, image.band_pixels) for image in real]),
        )


LEAST = Rounding(
    relative_l2=1e-4, stress_relative_l2=3e-4, flips=1e-4, image_flips=5e-4, flips_inside=2e-5, flips_boundary=5e-4
)
"""Of any network, so that one which rounding hardly moves is not held to nothing."""


@dataclass(frozen=True)
class Fitted:
    """A limit, and in words what it was fitted to; empty where it is the setting itself."""

    limit: float
    words: str = ""


def fitted(largest: float, own: Rounding | None, name: str, times: float) -> Fitted:
    """`times` what rounding does to the network, and never more than `largest`: broken roundings allow nothing."""
    value, least = None if own is None else getattr(own, name), getattr(LEAST, name)
    if value is None or not times * max(value, least) < largest:
        return Fitted(largest)
    return Fitted(times * max(value, least), f"{times:g} times {max(value, least):.3g}, the network's own rounding")


def _worst(images: Sequence[ImageRounding]) -> float | None:
    errors = [image.relative_l2 for image in images if image.relative_l2 is not None]
    return max(errors) if errors and len(errors) == len(images) else None


def _share(counts: Sequence[tuple[int, int]]) -> float | None:
    """One more than was counted: none of a few pixels does not mean none of many."""
    part, whole = sum(flips for flips, _ in counts), sum(pixels for _, pixels in counts)
    return (part + 1) / whole if whole else None
