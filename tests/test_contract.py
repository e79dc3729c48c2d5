"""The contract: its fields, its hash, its geometry, and what it refuses."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segpipe.contract.schema import CONTRACTS, METADATA_KEY, Contract, FrameContract, SemanticContract
from segpipe.errors import ContractError
from segpipe.rundir.directory import RunDirectory
from tests.old_runs import unpack
from tests.tiny import contract_fields

SIDES = st.integers(1, 3000)
SEMANTIC_JSON = (
    '{"channel_order": "rgb", "channels": 3, "classes": ["ground", "thing", "other"], "dtype": "uint8", '
    '"fit": "stretch", "ignore_index": 255, "input_dtype": "float32", "input_layout": "nchw", "input_name": "image", '
    '"mean": [0.485, 0.456, 0.406], "network_size": [32, 48], "output_kind": "logits", "output_layout": "nchw", '
    '"output_name": "logits", "output_stride": 4, "resize": "half-pixel-bilinear", "size_multiple": 1, '
    '"std": [0.229, 0.224, 0.225], "threshold": 0.5, "value_range": [0.0, 255.0], "version": 1}'
)
SEMANTIC_SHA256 = "4e510fb48004a8d639333b7d8c693145424d819fd46fd7cacd10fa8b6b8e6bd2"


class CountContract(FrameContract):
    """Of a task that is not semantic."""

    task: ClassVar[str] = "count"
    output_name: str = "number"


def test_the_hash_follows_every_field() -> None:
    base = Contract(**contract_fields())
    other = Contract(**contract_fields(threshold=0.4))

    assert base.sha256 == Contract(**contract_fields()).sha256
    assert base.sha256 != other.sha256


def test_json_round_trip_keeps_the_hash() -> None:
    contract = Contract(**contract_fields(mean=(0.1, 0.2, 0.3), value_range=(0, 65535), dtype="uint16"))

    assert Contract.from_json(contract.to_json(), "test").sha256 == contract.sha256


def test_a_semantic_contracts_bytes_and_hash_are_those_of_the_first_version() -> None:
    contract = SemanticContract(**contract_fields())

    assert contract.to_json() == SEMANTIC_JSON
    assert contract.sha256 == SEMANTIC_SHA256
    assert contract.task == "semantic"


def test_the_stored_runs_contract_keeps_its_bytes_and_the_hash_in_its_records(tmp_path: Path) -> None:
    run = RunDirectory(unpack("run", tmp_path))
    stored = run.artifact_bytes("export", "contract.json")
    contract = FrameContract.from_json(stored, "the stored run")

    assert isinstance(contract, SemanticContract)
    assert contract.to_json().encode() == stored
    assert contract.sha256 == run.manifest.contract_sha256


def test_contracts_of_other_tasks_name_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTRACTS, "count", CountContract)
    contract = CountContract(network_size=(8, 8))
    found = FrameContract.from_json(contract.to_json(), "test")

    assert json.loads(contract.to_json())["task"] == "count"
    assert isinstance(found, CountContract)
    assert found.sha256 == contract.sha256
    with pytest.raises(ContractError, match="is for the task 'count', wanted 'semantic'"):
        SemanticContract.from_json(contract.to_json(), "test")
    with pytest.raises(ContractError, match=r"disagree about the contract.*task is 'count' against 'semantic'"):
        contract.require_same(SemanticContract(**contract_fields()), "the run", "the model")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "panoptic"}, "is for the task 'panoptic', this segpipe knows semantic"),
        ({"task": ["semantic"]}, "is for the task .*this segpipe knows semantic"),
        ({"task": "x" * 10_000}, "is for the task 'x{30,60}, this segpipe knows semantic"),
        ({"version": 2}, "has schema 2, this segpipe reads up to 1"),
    ],
)
def test_a_contract_of_a_later_segpipe_is_one_line_that_says_to_upgrade(changes: dict[str, Any], said: str) -> None:
    text = json.dumps(contract_fields(**changes))

    with pytest.raises(ContractError, match=said) as raised:
        FrameContract.from_json(text, "the model")
    assert "upgrade segpipe" in str(raised.value)
    assert "\n" not in raised.value.args[0]


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


@pytest.mark.parametrize("text", ["5", "null", "true", '"task"', '["task"]', "[]", "0.5"])
def test_json_that_is_no_object_is_no_contract(text: str) -> None:
    with pytest.raises(ContractError, match="the contract of the model is no object"):
        FrameContract.from_json(text, "the model")


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


def test_a_class_name_that_utf_8_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="class names must be text that UTF-8 can hold"):
        Contract(**contract_fields(classes=("\ud800", "thing", "other")))
