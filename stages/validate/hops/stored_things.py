"""Things in the stored reference: boxes, scores, classes, and the masks of their boxes a bit a pixel."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import AnyContract, InstanceContract
from segpipe.id_maps import Crop
from segpipe.instances import Instances

_Arrays = Mapping[str, NDArray[Any]]


def arrays_of(found: Instances, number: int) -> dict[str, NDArray[Any]]:
    """What was found in the image of this number, by names that carry it."""
    places = [(crop.left, crop.top, *crop.mask.shape) for crop in found.crops]
    bits = [crop.mask.reshape(-1) for crop in found.crops]
    return {
        f"boxes_{number}": found.boxes,
        f"thing_scores_{number}": found.scores,
        f"thing_labels_{number}": found.labels,
        f"places_{number}": np.array(places, np.int32).reshape(-1, 4),
        f"bits_{number}": np.packbits(np.concatenate([*bits, np.zeros(0, np.bool_)])),
    }


def things_in(arrays: _Arrays, number: int, contract: AnyContract, frame_size: tuple[int, int]) -> Instances | None:
    """The same again, without the maps that it was picked from; None of networks for masks."""
    if not isinstance(contract, InstanceContract) or f"boxes_{number}" not in arrays:
        return None
    return Instances(
        boxes=arrays[f"boxes_{number}"],
        scores=arrays[f"thing_scores_{number}"],
        labels=arrays[f"thing_labels_{number}"],
        crops=_crops(arrays[f"places_{number}"], np.unpackbits(arrays[f"bits_{number}"])),
        contract=contract,
        placement=contract.place(*frame_size),
    )


def _crops(places: NDArray[Any], bits: NDArray[Any]) -> tuple[Crop, ...]:
    crops, start = [], 0
    for left, top, height, width in places.tolist():
        end = start + height * width
        crops.append(Crop(bits[start:end].astype(np.bool_).reshape(height, width), left, top))
        start = end
    return tuple(crops)
