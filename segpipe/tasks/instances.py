"""Instance segmentation, light: rows of a network to things in the frame. Peaks and their choice are in the graph."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import InstanceContract, Placement
from segpipe.errors import BackendError, InputError
from segpipe.id_maps import Crop
from segpipe.instance_metrics import InstanceMeter, require_counting
from segpipe.instances import Instances
from segpipe.palette import Colours
from segpipe.runtime.backends import Backend
from segpipe.runtime.frames import Order
from segpipe.runtime.pasting import on_frame, pasted_boxes, pasted_canvases, require_side
from segpipe.runtime.request import Outputs
from segpipe.runtime.tiling import Progress, Tiling
from segpipe.tasks.instance_tiles import things_in_tiles

_MOST_FRAMES, _MOST_PIXELS = 16, 1 << 28
"""Of all masks of a frame: so many times its pixels, and as many in any frame."""

_Tensors = Mapping[str, NDArray[Any]]
_HALF = 0.5  # of yes


class InstanceTask:
    """Things by a contract."""

    def __init__(self, contract: InstanceContract) -> None:
        self.outputs = contract.output_names
        self._contract = contract

    def require(self, asked: Outputs) -> None:
        """Each thing has a score; pixels have none."""
        if asked.confidence:
            raise InputError("things have a score each, no confidence by pixel", hint="use `scores` of the answer")

    def decode(self, tensors: _Tensors, placement: Placement, asked: Outputs) -> Instances:
        """The rows that are answers, by falling score. A row with a number that is none is no answer."""
        require_side(placement)
        contract = self._contract
        boxes, scores, labels = self._rows(tensors)
        labels = np.rint(labels)  # where they come as floats, rounding must not make another class of one
        with np.errstate(invalid="ignore"):
            good = (scores >= contract.threshold) & np.isfinite(scores) & np.isfinite(boxes).all(1)
        kept = np.flatnonzero(good & (labels >= 0) & (labels < len(contract.things)))
        kept = kept[np.argsort(-scores[kept], kind="stable")]
        moved = on_frame(boxes[kept], placement)
        semantic = tensors.get(contract.semantic_name)
        return Instances(
            boxes=moved,
            scores=scores[kept].astype(np.float32),
            labels=labels[kept].astype(np.int64),
            crops=self._crops(tensors, kept, moved, placement),
            contract=contract,
            placement=placement,
            exceeded=len(kept) == len(scores),
            settled=not contract.settled_name or bool((tensors[contract.settled_name] > _HALF).all()),
            semantic=None if semantic is None else semantic.astype(np.float32),
            dense={name: tensors[name].astype(np.float32) for name in contract.dense_names} if asked.scores else {},
        )

    def plain(self, answer: Instances) -> Instances:
        """As it is: there is no plainer form."""
        return answer

    def result(self, answer: Instances, palette: Colours, order: Order) -> Instances:
        """With its colours."""
        return answer.shown_with(palette, order)

    def tiled(self, backend: Backend, frame: NDArray[Any], tiling: Tiling, progress: Progress | None) -> Instances:
        """What several tiles show of a thing is told once."""
        return things_in_tiles(backend, self._contract, frame, tiling, progress)

    def on_device(self, job: Any, placement: Placement, tensors: Any) -> None:
        """No kernels: a hundred rows and their masks are small beside a frame."""

    def meter(self) -> InstanceMeter:
        """Average precision and panoptic quality; said before any frame where what counts them is not installed."""
        require_counting()
        return InstanceMeter(self._contract)

    def _rows(self, tensors: _Tensors) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Boxes Kx4, scores K and labels K, or a BackendError that says what they are instead."""
        contract = self._contract
        boxes, scores, labels = (tensors[n] for n in (contract.boxes_name, contract.scores_name, contract.labels_name))
        rows = {contract.boxes_name: (boxes, (contract.top, 4)), contract.scores_name: (scores, (contract.top,))}
        rows[contract.labels_name] = (labels, (contract.top,))
        for name, (tensor, wanted) in rows.items():
            if tensor.shape != wanted:
                raise BackendError(
                    f"the network's '{name}' is {tensor.shape} for a frame, the contract says {wanted}",
                    hint="mend `top` or the tensors' names in the contract",
                )
        return boxes, scores, labels

    def _crops(
        self, tensors: _Tensors, kept: NDArray[np.intp], boxes: NDArray[np.float32], placement: Placement
    ) -> tuple[Crop, ...]:
        contract = self._contract
        if contract.masks == "none":
            return ()
        masks, paste = tensors[contract.masks_name], pasted_canvases if contract.masks == "canvas" else pasted_boxes
        if masks.ndim != 3 or len(masks) != contract.top:
            raise BackendError(
                f"the network's '{contract.masks_name}' is {masks.shape} for a frame, wanted {contract.top} masks",
                hint="mend `top` or the tensors' names in the contract",
            )
        _require_room(boxes, placement)
        return paste([masks[row] for row in kept], boxes, placement)


def _require_room(boxes: NDArray[np.float32], placement: Placement) -> None:
    """A thousand things as large as their frame would take gigabytes."""
    height, width = placement.source
    pixels = int((np.ceil(boxes[:, 2:]) - np.floor(boxes[:, :2])).clip(0).astype(np.float64).prod(1).sum())
    most = max(_MOST_FRAMES * height * width, _MOST_PIXELS)
    if pixels > most:
        raise InputError(
            f"the masks of {len(boxes)} things would be {pixels / 1e6:.0f} megapixels, at most "
            f"{most / 1e6:.0f} are made",
            hint="send a smaller frame, or raise the contract's `threshold`",
        )
