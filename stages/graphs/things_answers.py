"""What an imported network for things really answers to one frame, compared with its contract."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import InstanceContract
from segpipe.errors import ContractError

_Named = Mapping[str, NDArray[Any]]


def refuse_other_things(asked: NDArray[Any], told: _Named, contract: InstanceContract, source: str) -> None:
    """ContractError that names the first output which is not as the contract says."""
    batch, top = len(asked), contract.top
    wanted: dict[str, tuple[int | None, ...]] = {
        contract.boxes_name: (batch, top, 4),
        contract.scores_name: (batch, top),
        contract.labels_name: (batch, top),
        contract.masks_name: (batch, top, None, None),
        contract.semantic_name: (batch, len(contract.classes), None, None),
    }
    for name, array in told.items():
        form = wanted.get(name, (batch, None, None, None))
        if array.ndim != len(form) or any(a not in (None, b) for a, b in zip(form, array.shape, strict=True)):
            shown = "x".join("any" if side is None else str(side) for side in form)
            raise ContractError(
                f"{source}: output '{name}' is {'x'.join(map(str, array.shape))} for an input of "
                f"{'x'.join(map(str, asked.shape))}, the contract says {shown}",
                hint="mend `top`, `classes` or the tensors' names in the contract",
            )
    scores = told[contract.scores_name]
    if np.isfinite(scores).all() and (scores.min() < 0 or scores.max() > 1):
        raise ContractError(
            f"{source}: output '{contract.scores_name}' holds values from {scores.min():.3g} to {scores.max():.3g}, "
            "scores lie between 0 and 1",
            hint="end it in a sigmoid",
        )
    _refuse_other_labels(told[contract.labels_name], contract, source)


def _refuse_other_labels(labels: NDArray[Any], contract: InstanceContract, source: str) -> None:
    """A row of no class is no answer; where all are, the numbers begin elsewhere."""
    if not ((labels >= 0) & (labels < len(contract.things))).any():
        raise ContractError(
            f"{source}: output '{contract.labels_name}' holds numbers from {labels.min()} to {labels.max()}, the "
            f"contract's things are 0 to {len(contract.things) - 1}",
            hint="name in things what the network calls 0, 1 and so on, its background too where that has a number",
        )


def remark_on_things(told: _Named, contract: InstanceContract) -> str:
    """What looks wrong with the values and need not be; empty where nothing does."""
    boxes, remarks = told[contract.boxes_name], []
    if boxes.size and np.isfinite(boxes).all() and 0 < boxes.max() <= 1 and boxes.min() >= 0:
        remarks.append(f"output '{contract.boxes_name}' holds shares of the frame: boxes are in pixels of the input")
    if contract.masks != "none":
        masks = told[contract.masks_name]
        if masks.size and masks.min() >= 0 and masks.max() <= 1 and masks.max() > 0:
            remarks.append(
                f"output '{contract.masks_name}' holds values from {masks.min():.3g} to {masks.max():.3g}, as "
                "probabilities do, and masks are raw scores: what is above 0 is the thing"
            )
    return "; ".join(remarks)
