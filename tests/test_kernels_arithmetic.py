"""The kernels' arithmetic, run on the CPU, against the PyTorch definition."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segpipe.contract.schema import Contract
from segpipe.runtime.cuda.geometry import canvas_tables, mask_tables
from segpipe.runtime.cuda.kernels import BlendArguments, Kernels, PackArguments, PreArguments, ScoreArguments
from segpipe.runtime.postprocess import postprocess
from segpipe.runtime.tiling import cut_axis
from stages.models import reference
from tests import kernel_calls
from tests.host_device import HostDevice, kernel_library
from tests.host_engine import IMAGE
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

BLEND_TOLERANCE = 1e-5  # sums of up to a hundred weights, rounded to float32, of scores below 5
CONFIDENCE_TOLERANCE = 2e-5  # exp and a sum over up to 300 classes in float32
ROUNDS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def device() -> HostDevice:
    kernel_library()
    return HostDevice()


@pytest.fixture(scope="module")
def kernels(device: HostDevice) -> Kernels:
    with device.current():
        return Kernels(device, IMAGE)


def test_structures_are_the_same_in_python_and_c() -> None:
    twins = [PreArguments, ScoreArguments, PackArguments, BlendArguments]

    assert kernel_calls.structure_sizes(kernel_library()) == [len(bytes(twin())) for twin in twins]


@given(case=frames())
@ROUNDS
def test_input_equals_the_definition(device: HostDevice, kernels: Kernels, case: Frames) -> None:
    found = kernel_calls.preprocess(device, kernels, case.pixels, case.contract, "float32")

    np.testing.assert_allclose(found, reference_input(case), rtol=0, atol=PRE_TOLERANCE)


@given(case=frames())
@ROUNDS
def test_half_input_is_the_rounded_float_input(device: HostDevice, kernels: Kernels, case: Frames) -> None:
    wide = kernel_calls.preprocess(device, kernels, case.pixels, case.contract, "float32")
    half = kernel_calls.preprocess(device, kernels, case.pixels, case.contract, "float16")

    assert np.array_equal(half, wide.astype(np.float16))


@given(case=frames())
@ROUNDS
def test_half_input_is_within_one_ulp_of_the_definition(device: HostDevice, kernels: Kernels, case: Frames) -> None:
    half = kernel_calls.preprocess(device, kernels, case.pixels, case.contract, "float16")

    wanted = reference_input(case).astype(np.float16)
    ulp = np.spacing(np.maximum(np.abs(wanted), np.abs(half))).astype(np.float32)
    assert (np.abs(half.astype(np.float32) - wanted) <= ulp + PRE_TOLERANCE).all()


def test_integer_input_is_rounded_and_clipped(device: HostDevice, kernels: Kernels) -> None:
    contract = Contract(
        network_size=(7, 9),
        classes=("a", "b"),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        value_range=(0.0, 1.0),
        input_dtype="uint8",
    )
    pixels = np.random.default_rng(0).integers(0, 256, (1, 13, 11, 3), np.uint8)

    found = kernel_calls.preprocess(device, kernels, pixels, contract, "uint8")

    wanted = np.rint(reference_input(Frames(contract, pixels)))
    assert np.abs(found.astype(int) - wanted).max() <= 1  # halves round either way
    assert (found == wanted).mean() > 0.99


@given(case=scores())
@ROUNDS
def test_masks_equal_the_definition(device: HostDevice, kernels: Kernels, case: Scores) -> None:
    layout = case.values if case.contract.output_layout == "nchw" else case.values.transpose(0, 2, 3, 1)
    masks, _ = kernel_calls.segment(device, kernels, np.ascontiguousarray(layout), case.contract, case.placement)

    full = reference_scores(case)
    wanted = np.stack([reference.decide(one[None], case.contract) for one in full])
    assert masks.dtype == case.contract.mask_dtype
    assert not ((masks != wanted) & ~undecided(full, case.contract)).any()


@given(case=scores())
@ROUNDS
def test_masks_of_half_scores_equal_the_definition(device: HostDevice, kernels: Kernels, case: Scores) -> None:
    half = case.values.astype(np.float16)
    layout = half if case.contract.output_layout == "nchw" else half.transpose(0, 2, 3, 1)
    masks, _ = kernel_calls.segment(device, kernels, np.ascontiguousarray(layout), case.contract, case.placement)

    full = reference_scores(Scores(case.contract, case.placement, half.astype(np.float32)))
    wanted = np.stack([reference.decide(one[None], case.contract) for one in full])
    assert not ((masks != wanted) & ~undecided(full, case.contract)).any()


@given(case=scores())
@ROUNDS
def test_confidence_is_the_winner_s_probability(device: HostDevice, kernels: Kernels, case: Scores) -> None:
    layout = case.values if case.contract.output_layout == "nchw" else case.values.transpose(0, 2, 3, 1)
    _, found = kernel_calls.segment(device, kernels, np.ascontiguousarray(layout), case.contract, case.placement)

    full = reference_scores(case)
    if case.contract.output_kind == "sigmoid":
        limit = math.log(case.contract.threshold / (1 - case.contract.threshold))
        wanted = torch.where(full[:, 0] >= limit, full[:, 0].sigmoid(), (-full[:, 0]).sigmoid()).numpy()
    else:
        wanted = (full if case.contract.output_kind == "probabilities" else full.softmax(1)).amax(1).numpy()
    decided = ~undecided(full, case.contract)
    assert np.abs(found - wanted)[decided].max(initial=0) <= CONFIDENCE_TOLERANCE


@given(case=scores())
@ROUNDS
def test_masks_equal_the_cpu_path(device: HostDevice, kernels: Kernels, case: Scores) -> None:
    layout = case.values if case.contract.output_layout == "nchw" else case.values.transpose(0, 2, 3, 1)
    masks, _ = kernel_calls.segment(device, kernels, np.ascontiguousarray(layout), case.contract, case.placement)

    wanted = np.stack([postprocess(one, case.contract, case.placement) for one in layout])
    assert not ((masks != wanted) & ~undecided(reference_scores(case), case.contract)).any()


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
@pytest.mark.parametrize("classes", [5, 300])
def test_labels_are_taken_from_the_nearest_cell(device: HostDevice, kernels: Kernels, dtype: str, classes: int) -> None:
    names = tuple(map(str, range(classes)))
    ignore = 255 if classes < 255 else 65535
    contract = Contract(network_size=(16, 24), classes=names, ignore_index=ignore, output_kind="labels")
    labels = np.random.default_rng(1).integers(0, min(classes, 255), (2, 16, 24)).astype(dtype)

    masks, _ = kernel_calls.segment(device, kernels, labels, contract, contract.place(33, 49))

    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(labels[:, None].astype(np.float32)), (33, 49), mode="nearest-exact"
    )
    assert np.array_equal(masks, wanted[:, 0].numpy().astype(contract.mask_dtype))


@given(
    sides=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    tile=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.9]),
    dtype=st.sampled_from(["float32", "float16"]),
    nhwc=st.booleans(),
)
@ROUNDS
def test_tiles_are_blended_by_normalised_gaussians(
    device: HostDevice,
    kernels: Kernels,
    *,
    sides: tuple[int, int],
    tile: tuple[int, int],
    overlap: float,
    dtype: str,
    nhwc: bool,
) -> None:
    rows, columns = (cut_axis(side, length, length, overlap) for side, length in zip(sides, tile, strict=True))
    rng = np.random.default_rng(0)
    tiles = {
        (row, column): rng.normal(size=(3, *tile)).astype(dtype)
        for row in range(len(rows.begins))
        for column in range(len(columns.begins))
    }

    found = kernel_calls.blend(device, kernels, tiles, rows, columns, nhwc=nhwc)

    bells = [np.exp(-0.5 * ((np.arange(n) + 0.5 - n / 2) / (n / 4)) ** 2) for n in tile]
    bell = bells[0][:, None] * bells[1]
    total, weight = np.zeros(found.shape), np.zeros(found.shape[1:])
    for (row, column), one in tiles.items():
        top, left = rows.begins[row], columns.begins[column]
        at = slice(top, top + tile[0]), slice(left, left + tile[1])
        total[:, at[0], at[1]] += one * bell
        weight[at] += bell
    np.testing.assert_allclose(found, total / weight, atol=BLEND_TOLERANCE)


def test_padding_of_the_canvas_is_marked_in_the_tables() -> None:
    contract = Contract(fit="letterbox", network_size=(10, 20), classes=("a", "b"))

    tables = canvas_tables(contract.place(10, 10))

    assert (tables.columns["first"] < 0).sum() == 10
    assert (tables.rows["first"] >= 0).all()


def test_a_tap_without_weight_has_no_second_neighbour() -> None:
    contract = Contract(network_size=(8, 8), classes=("a", "b"))

    taps = mask_tables(contract.place(8, 8), 8, 8).columns

    assert np.array_equal(taps["second"], taps["first"])
