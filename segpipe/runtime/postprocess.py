"""Network output to masks on the CPU: bilinear upsampling to the source frame and argmax in one step.

Between four neighbouring score vectors that share their argmax every bilinear blend has that argmax too, so only the
cells on class borders need arithmetic (`borders.py`). Full-resolution scores never exist.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Contract, Placement
from segpipe.errors import BackendError
from segpipe.runtime.borders import Borders, Mask, Scores, argmax, mixed_cells
from segpipe.runtime.compiled.chosen import kernels
from segpipe.runtime.geometry import Axis, axes


def postprocess(scores: NDArray[Any], contract: Contract, placement: Placement) -> Mask:
    """One network output, CxHxW or HxWxC as the contract says, to an HxW mask of the source size."""
    if contract.output_kind == "labels":
        return _nearest(_label_map(scores, contract), contract, placement)
    planes = as_planes(scores, contract)
    rows, columns = axes(placement, *planes.shape[1:])
    return mask_of(planes, rows, columns, contract)


def as_planes(scores: NDArray[Any], contract: Contract) -> Scores:
    """CxHxW float32."""
    planes = scores.transpose(2, 0, 1) if contract.output_layout == "nhwc" else scores
    return np.ascontiguousarray(planes, np.float32)


def mask_of(planes: Scores, rows: Axis, columns: Axis, contract: Contract) -> Mask:
    """The mask at the pixels of two axes."""
    if contract.limit is not None:
        limit = np.full_like(planes, contract.limit)
        foreground = np.concatenate([planes, limit])  # first wins ties: at the threshold is foreground
        return (1 - blended_argmax(foreground, rows, columns)).astype(contract.mask_dtype)
    return blended_argmax(planes, rows, columns).astype(contract.mask_dtype, copy=False)


def blended_argmax(scores: Scores, rows: Axis, columns: Axis) -> Mask:
    """Class of the greatest blended score for every pixel; the first wins ties."""
    meet, compiled = rows.meets_scores and columns.meets_scores, kernels().masks
    if compiled and not meet and (mask := compiled.mask(scores, rows, columns)) is not None:
        return mask
    found = compiled.labels(scores) if compiled else None
    labels = argmax(scores) if found is None else found
    if meet:
        return labels.take(rows.first, 0).take(columns.first, 1)
    borders, (across, down) = Borders(scores, labels, rows, columns), (columns.parts, rows.parts)
    parts = np.pad(labels, ((1, 0), (1, 0)), mode="edge").repeat(down.count, 0).repeat(across.count, 1)
    by_cell = parts.reshape(down.cells, down.count, across.cells, across.count)
    crossed = list(borders.cut(np.flatnonzero(mixed_cells(labels, rows, columns)), by_cell))
    mask = _picked(parts, down.of_pixel, across.of_pixel)
    for some in crossed:
        borders.blend(some, mask)
    return mask


def _label_map(answer: NDArray[Any], contract: Contract) -> NDArray[Any]:
    """HxW of an answer that is HxW, 1xHxW or HxWx1; where both ends are one wide, the layout says which is a side."""
    if answer.ndim == 2:
        return answer
    channel = 2 if contract.output_layout == "nhwc" else 0
    for axis in (channel, 2 - channel) if answer.ndim == 3 else ():
        if answer.shape[axis] == 1:
            return answer.take(0, axis)
    raise BackendError(
        f"the network answers {answer.shape} for a frame, labels are HxW, 1xHxW or HxWx1",
        hint="change output_name or output_kind in the contract, or give the graph's output a batch",
    )


def _as_mask(labels: NDArray[Any], contract: Contract) -> Mask:
    """In the mask's type. What that cannot hold becomes its largest number, which is no class, not another class."""
    dtype = np.dtype(contract.mask_dtype)
    largest = np.iinfo(dtype).max
    if labels.dtype == dtype or (labels.min() >= 0 and labels.max() <= largest):
        return labels.astype(dtype, copy=False)
    mask = np.full(labels.shape, largest, dtype)
    np.copyto(mask, labels, where=(labels >= 0) & (labels <= largest), casting="unsafe")
    return mask


def _nearest(labels: NDArray[Any], contract: Contract, placement: Placement) -> Mask:
    rows, columns = (axis.nearest for axis in axes(placement, *labels.shape))
    read = labels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # not the bars of a letterbox
    return _picked(_as_mask(read, contract), rows - rows[0], columns - columns[0])


def _picked(labels: Mask, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Mask:
    """Rows and columns of labels. Both are taken as rows: copies of whole lines, not of single labels."""
    return cv2.transpose(cv2.transpose(labels).take(columns, 0)).take(rows, 0)
