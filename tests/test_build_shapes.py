"""Shape ranges of engines: from the config, compared with the contract's stride and the graph's own dimensions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from segpipe.contract.schema import Contract
from segpipe.errors import ConfigError
from stages.config.root import BuildConfig, Profile
from stages.graphs.input_shapes import shape_ranges

FIXED = Contract(classes=("a", "b"), network_size=(64, 96), size_multiple=32)
OPEN = Contract(classes=("a", "b"), fit="pad", size_multiple=32)


def test_several_profiles_become_several_ranges() -> None:
    single, many = Profile(batch=(1, 1, 1)), Profile(batch=(2, 4, 16))

    ranges = shape_ranges(FIXED, BuildConfig(profiles=(single, many)))

    assert [found.largest for found in ranges] == [(1, 3, 64, 96), (16, 3, 64, 96)]


def test_without_profiles_there_is_one_up_to_the_largest_batch() -> None:
    (found,) = shape_ranges(FIXED, BuildConfig(max_batch=5))

    assert (found.smallest, found.typical, found.largest) == ((1, 3, 64, 96), (1, 3, 64, 96), (5, 3, 64, 96))


def test_nhwc_puts_channels_last() -> None:
    (found,) = shape_ranges(FIXED.model_copy(update={"input_layout": "nhwc"}), BuildConfig())

    assert found.largest == (8, 64, 96, 3)


@pytest.mark.parametrize(
    ("side", "nearest"), [(100, "nearest that fit: 96 and 128"), (20, "nearest that fit: 32$"), (33, "32 and 64")]
)
def test_size_that_contradicts_the_stride_names_the_nearest_that_fit(side: int, nearest: str) -> None:
    profile = Profile(height=(side, side, side), width=(64, 64, 64))

    with pytest.raises(ConfigError, match=rf"height {side} is not a multiple of the network's 32.*{nearest}"):
        shape_ranges(OPEN, BuildConfig(profiles=(profile,)))


def test_size_that_contradicts_the_contract_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"height \[32, 64, 96\] contradicts the contract, whose height is always 64"):
        shape_ranges(FIXED, BuildConfig(profiles=(Profile(height=(32, 64, 96)),)))


def test_graph_that_fixes_its_batch_fixes_the_range_but_not_against_the_config() -> None:
    graph = [1, 3, None, None]

    (found,) = shape_ranges(FIXED, BuildConfig(), graph)

    assert found.largest == (1, 3, 64, 96)
    with pytest.raises(ConfigError, match=r"does not fit the graph, whose input is 1x3x\?x\?"):
        shape_ranges(FIXED, BuildConfig(profiles=(Profile(batch=(1, 2, 4)),)), graph)


def test_sizes_out_of_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="height must be smallest, typical, largest"):
        Profile(height=(64, 32, 96))


@given(st.integers(1, 128))
def test_default_sizes_of_open_contracts_are_multiples_in_order(multiple: int) -> None:
    contract = Contract(classes=("a", "b"), fit="pad", size_multiple=multiple)

    (found,) = shape_ranges(contract, BuildConfig())

    for axis in (2, 3):
        sides = [shape[axis] for shape in (found.smallest, found.typical, found.largest)]
        assert sides == sorted(sides)
        assert all(side % multiple == 0 for side in sides)
