"""Frames, contracts and the comparison with the PyTorch definition that tests of the GPU frame path share."""

from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from segpipe.contract.schema import Contract
from segpipe.runtime.request import Outputs
from stages.models import reference
from tests.kernel_cases import RANGES, undecided

MARGIN = 5e-3  # the network's input differs by 1e-4, a weight sum of 48 terms carries that to here
HALF_MARGIN = 5e-2  # scores rounded to 11 bits
MASK = Outputs()
CLASSES = ("a", "b", "c", "d", "e")


def contract_of(**fields: Any) -> Contract:
    """A small network's contract."""
    plain: dict[str, Any] = {"network_size": (32, 48), "output_stride": 4, "classes": CLASSES}
    return Contract(**{**plain, **fields})


def noise(contract: Contract, height: int, width: int, seed: int = 0) -> NDArray[Any]:
    """A frame with regions, so that masks have them too."""
    low, high = RANGES[contract.dtype]
    coarse = np.random.default_rng(seed).uniform(low, high, (5, 6, contract.channels)).astype(np.float32)
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(coarse).permute(2, 0, 1)[None], (height, width), mode="bilinear"
    )
    return np.ascontiguousarray(smooth[0].permute(1, 2, 0).numpy().astype(contract.dtype))


def reference_scores(graph: bytes, contract: Contract, frame: NDArray[Any]) -> torch.Tensor:
    """Full-size scores by the definition, with ONNX Runtime as the network."""
    placement = contract.place(*frame.shape[:2])
    tensor = reference.preprocess(frame, contract, placement).numpy()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    raw = session.run(None, {contract.input_name: tensor.astype(contract.input_dtype)})[0].astype(np.float32)
    scores = torch.from_numpy(raw.transpose(0, 3, 1, 2) if contract.output_layout == "nhwc" else raw)
    return reference.upsample(scores, placement)


def assert_equal(
    mask: NDArray[Any], graph: bytes, contract: Contract, frame: NDArray[Any], margin: float = MARGIN
) -> None:
    """The mask is the definition's, where that is decided."""
    full = reference_scores(graph, contract, frame)
    wanted = reference.decide(full, contract)
    sure = ~undecided(full, contract, margin)[0]
    assert mask.shape == wanted.shape
    assert mask.dtype == wanted.dtype
    assert np.array_equal(mask[sure], wanted[sure])
    assert sure.mean() > 0.5 or mask.size < 100
