"""The table's rows that run on a CPU, as parameters of tests: whoever adds one is held to what all are held to."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segpipe import processor, testing
from segpipe.artifacts import ARTIFACTS, ON_CPU, Artifact
from segpipe.contract.schema import Contract
from segpipe.installed import versions
from segpipe.runtime.backends import Backend, load_opener
from segpipe.runtime.backends.host import HostBackend
from segpipe.runtime.request import OpenOptions, Outputs

FIXED = testing.CONTRACT.model_copy(update={"fit": "stretch", "network_size": (64, 96)})
"""The contract of a network of one size."""
ROWS = tuple(row for row in ARTIFACTS.values() if not row.needs_gpu)
PLAIN = tuple(row for row in ROWS if row.precision == "fp32")


def opens_here(row: Artifact) -> bool:
    """Whether its package is installed and this processor has the instructions."""
    return bool(versions(*row.spec.packages)) and processor.computes(row.precision)


def parameters(rows: Iterable[Artifact]) -> list[Any]:
    """Their names; a test of one that does not open here is skipped."""
    return [
        pytest.param(row.name, marks=pytest.mark.skipif(not opens_here(row), reason=f"{row.name} does not open here"))
        for row in rows
    ]


def opened(name: str, contract: Contract = testing.CONTRACT, threads: int = 2) -> HostBackend:
    """The backend on a tiny network."""
    backend = load_opener(name)(testing.make_onnx(contract), contract, OpenOptions(threads=threads))
    assert isinstance(backend, HostBackend)
    return backend


def scores_of(backend: Backend, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of one frame."""
    scores = backend.infer([frame], Outputs(scores=True))[0].scores
    assert scores is not None
    return scores


def apart(name: str) -> float:
    """Relative L2 between this backend's scores and those of ONNX Runtime in FP32."""
    frame, _ = testing.make_frame(96, 160)
    usual, other = scores_of(opened(ON_CPU.name), frame), scores_of(opened(name), frame)
    return float(np.linalg.norm(other - usual) / np.linalg.norm(usual))
