"""The contract: its fields, its hash, its geometry, and what it refuses."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segpipe.contract.schema import METADATA_KEY, Contract
from segpipe.errors import ContractError
from tests.tiny import contract_fields

SIDES = st.integers(1, 3000)


def test_the_hash_follows_every_field() -> None:
    base = Contract(**contract_fields())
    other = Contract(**contract_fields(threshold=0.4))

    assert base.sha256 == Contract(**contract_fields()).sha256
    assert base.sha256 != other.sha256


def test_json_round_trip_keeps_the_hash() -> None:
    contract = Contract(**contract_fields(mean=(0.1, 0.2, 0.3), value_range=(0, 65535), dtype="uint16"))

    assert Contract.from_json(contract.to_json(), "test").sha256 == contract.sha256


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channels": 4}, "mean and std need one value for each of 4 channels"),
        ({"std": (0.2, 0.0, 0.2)}, "std must be positive"),
        ({"value_range": (255.0, 0.0)}, "low < high"),
        ({"channels": 1, "mean": (0.5,), "std": (0.2,), "channel_order": "bgr"}, "needs 3 channels"),
        ({"ignore_index": 2}, "ignore_index is the number of a class"),
        ({"classes": ("a", "a")}, "class names must differ"),
        ({"network_size": None}, "'stretch' needs a network_size"),
        ({"fit": "pad"}, "leave network_size out"),
        ({"output_kind": "sigmoid"}, "exactly 2 classes"),
        ({"input_dtype": "uint8"}, "needs mean 0, std 1"),
        ({"colour": "rgb"}, "colour"),
        ({"classes": ("only",)}, "classes"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], said: str) -> None:
    text = json.dumps(contract_fields(**changes))

    with pytest.raises(ContractError, match=said):
        Contract.from_json(text, "the model")


def test_disagreement_names_the_fields() -> None:
    ours, theirs = Contract(**contract_fields()), Contract(**contract_fields(channel_order="bgr", output_stride=8))

    with pytest.raises(ContractError, match=r"channel_order, output_stride.*'rgb' against 'bgr'"):
        ours.require_same(theirs, "the run", "the model")
    ours.require_same(Contract(**contract_fields()), "the run", "the model")


def test_metadata_without_a_contract_is_refused() -> None:
    contract = Contract(**contract_fields())

    assert Contract.from_metadata({METADATA_KEY: contract.to_json()}, "x.onnx") == contract
    with pytest.raises(ContractError, match=r"x\.onnx carries no contract"):
        Contract.from_metadata({}, "x.onnx")


def test_masks_need_16_bits_only_for_many_classes() -> None:
    many = tuple(f"c{n}" for n in range(300))

    assert Contract(**contract_fields()).mask_dtype == "uint8"
    assert Contract(**contract_fields(classes=many, ignore_index=65535)).mask_dtype == "uint16"


@given(SIDES, SIDES)
def test_letterbox_keeps_the_aspect_ratio_and_stays_on_the_canvas(height: int, width: int) -> None:
    placement = Contract(**contract_fields(fit="letterbox")).place(height, width)

    for axis in (0, 1):
        assert 1 <= placement.resized[axis] <= placement.canvas[axis]
        assert 0 <= placement.offset[axis] <= placement.canvas[axis] - placement.resized[axis]
    assert placement.resized[0] == placement.canvas[0] or placement.resized[1] == placement.canvas[1]


@given(SIDES, SIDES, st.sampled_from([1, 8, 32]))
def test_pad_only_rounds_up(height: int, width: int, multiple: int) -> None:
    contract = Contract(**contract_fields(fit="pad", network_size=None, size_multiple=multiple))
    placement = contract.place(height, width)

    assert placement.resized == (height, width)
    assert all(side % multiple == 0 for side in placement.canvas)
    assert all(0 <= side - source < multiple for side, source in zip(placement.canvas, (height, width), strict=True))


def test_numbers_must_be_finite() -> None:
    with pytest.raises(ValueError, match="finite number"):
        Contract(**contract_fields(mean=(0.5, float("nan"), 0.5)))
