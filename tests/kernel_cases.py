"""Random frames, scores and contracts for the kernels, and the PyTorch definition they are held to."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from segpipe.contract.schema import Contract, Placement
from stages.models import reference

PRE_TOLERANCE = 1e-4  # after normalisation: torch takes positions in float32, we in float64
MARGIN = 1e-5  # relative: where the two best scores are nearer than this either may win
RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "float32": (-1.0, 1.0)}
Fit = Literal["stretch", "letterbox", "pad"]
sides = st.integers(1, 96)
fits: st.SearchStrategy[Fit] = st.sampled_from(("stretch", "letterbox", "pad"))
dtypes: st.SearchStrategy[Literal["uint8", "uint16", "float32"]] = st.sampled_from(("uint8", "uint16", "float32"))
kinds: st.SearchStrategy[Literal["logits", "probabilities", "sigmoid"]] = st.sampled_from(
    ("logits", "probabilities", "sigmoid")
)


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    """Contracts of every geometry, dtype and layout."""
    channels = draw(st.sampled_from([1, 3, 5]))
    dtype = draw(dtypes)
    fit = draw(fits)
    return Contract(
        channels=channels,
        channel_order=draw(st.sampled_from(["rgb", "bgr", "as_is"])) if channels == 3 else "as_is",
        dtype=dtype,
        value_range=RANGES[dtype],
        mean=tuple(0.3 + 0.05 * c for c in range(channels)),
        std=tuple(0.2 + 0.02 * c for c in range(channels)),
        fit=fit,
        network_size=None if fit == "pad" else (draw(sides), draw(sides)),
        size_multiple=draw(st.sampled_from([1, 4, 32])) if fit == "pad" else 1,
        classes=("a", "b"),
        input_layout=draw(st.sampled_from(["nchw", "nhwc"])),
    )


@dataclass(frozen=True)
class Frames:
    """A batch of frames under a contract."""

    contract: Contract
    pixels: NDArray[Any]


@st.composite
def frames(draw: st.DrawFn) -> Frames:
    """Noise: the hardest image to interpolate."""
    contract = draw(contracts())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 3)), draw(sides), draw(sides), contract.channels)
    low, high = contract.value_range
    return Frames(contract, rng.uniform(low, high, shape).astype(contract.dtype))


@dataclass(frozen=True)
class Scores:
    """A batch of network outputs, NCHW, of frames that are placed like this."""

    contract: Contract
    placement: Placement
    values: NDArray[np.float32]


@st.composite
def scores(draw: st.DrawFn) -> Scores:
    """Smooth scores with regions, as networks give them, and noise on top."""
    kind = draw(kinds)
    classes = 2 if kind == "sigmoid" else draw(st.sampled_from([2, 5, 19, 256, 300]))
    fit = draw(fits)
    contract = Contract(
        fit=fit,
        network_size=None if fit == "pad" else (draw(sides), draw(sides)),
        size_multiple=16 if fit == "pad" else 1,
        classes=tuple(map(str, range(classes))),
        ignore_index=65535 if classes > 255 else 255,
        output_kind=kind,
        output_layout=draw(st.sampled_from(["nchw", "nhwc"])),
        threshold=draw(st.sampled_from([0.2, 0.5, 0.9])),
    )
    placement = contract.place(draw(sides), draw(sides))
    stride = draw(st.sampled_from([1, 4, 8]))
    height, width = (-(-side // stride) for side in placement.canvas)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    coarse = torch.from_numpy(rng.normal(size=(2, contract.score_channels, 4, 5)).astype(np.float32)) * 3
    values = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").numpy()
    values += rng.normal(size=values.shape).astype(np.float32) * 0.05
    if kind == "probabilities":
        values = torch.from_numpy(values).softmax(1).numpy()
    return Scores(contract, placement, values)


def reference_input(case: Frames) -> NDArray[np.float32]:
    """The definition of the first half."""
    placement = case.contract.place(*case.pixels.shape[1:3])
    return np.concatenate([reference.preprocess(frame, case.contract, placement).numpy() for frame in case.pixels])


def reference_scores(case: Scores) -> torch.Tensor:
    """The definition's full-size scores."""
    return torch.cat([reference.upsample(torch.from_numpy(one[None]), case.placement) for one in case.values])


def undecided(full: torch.Tensor, contract: Contract, margin: float = MARGIN) -> NDArray[np.bool_]:
    """Pixels where the definition itself hangs by a rounding."""
    if contract.output_kind == "sigmoid":
        limit = np.log(contract.threshold / (1 - contract.threshold))
        return (np.abs(full[:, 0].numpy() - limit) <= margin * np.maximum(1, abs(limit))).astype(bool)
    best = full.topk(2, 1).values.numpy()
    return (best[:, 0] - best[:, 1] <= margin * np.maximum(1, np.abs(best[:, 0]))).astype(bool)
