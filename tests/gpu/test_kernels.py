"""The kernels on the GPU against the PyTorch definition: the same cases as on the CPU."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from segpipe.runtime.cuda.device import Device
from segpipe.runtime.cuda.kernels import Kernels
from stages.models import reference
from tests import kernel_calls
from tests.kernel_cases import (
    PRE_TOLERANCE,
    Frames,
    Scores,
    frames,
    reference_input,
    reference_scores,
    scores,
    undecided,
)

pytestmark = pytest.mark.gpu
ROUNDS = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@given(case=frames())
@ROUNDS
def test_input_equals_the_definition(device: Device, kernels: Kernels, case: Frames) -> None:
    found = kernel_calls.preprocess(device, kernels, case.pixels, case.contract, "float32")
    half = kernel_calls.preprocess(device, kernels, case.pixels, case.contract, "float16")

    np.testing.assert_allclose(found, reference_input(case), rtol=0, atol=PRE_TOLERANCE)
    assert np.array_equal(half, found.astype(np.float16))


@given(case=scores())
@ROUNDS
def test_masks_equal_the_definition(device: Device, kernels: Kernels, case: Scores) -> None:
    for dtype in (np.float32, np.float16):
        values = case.values.astype(dtype)
        layout = values if case.contract.output_layout == "nchw" else values.transpose(0, 2, 3, 1)
        masks, _ = kernel_calls.segment(device, kernels, np.ascontiguousarray(layout), case.contract, case.placement)

        full = reference_scores(Scores(case.contract, case.placement, values.astype(np.float32)))
        wanted = np.stack([reference.decide(one[None], case.contract) for one in full])
        assert not ((masks != wanted) & ~undecided(full, case.contract)).any()
