"""Classes that are not scored: they leave every mean, both figures are told, and nothing of older contracts changes."""

import json
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from pydantic import ValidationError

from segpipe.contract.schema import Contract
from segpipe.errors import ConfigError, ContractError
from segpipe.metrics import MaskMeter
from stages.config.file import parse_config, parse_toml
from stages.config.root import Config, FolderData, Limits
from stages.data.classes import class_faults
from stages.import_model import _starter, read_description
from stages.measuring.masks import MaskComparison, MaskShape, Truth
from stages.results.figures import TrainFigures
from stages.validate.judging.accuracy import hop_accuracy
from tests import importing, labelled_pairs

CLASSES = ("road", "sky", "void")
PLAIN = Contract(classes=CLASSES, network_size=(8, 8))
LABELS = np.array([[0, 0, 0, 0], [1, 1, 1, 255]], np.uint8)
ANSWER = np.array([[0, 0, 0, 2], [1, 1, 1, 2]], np.uint8)


def config_with(data: str) -> Config:
    """Two classes in folders, and more said of them."""
    return parse_config(parse_toml(labelled_pairs.TOML.replace("[input]", f"{data}\n[input]"), "test"), "test")


def test_a_class_that_the_labels_do_not_know_leaves_the_mean_and_both_figures_are_told() -> None:
    meter = MaskMeter(CLASSES, ("void",))
    meter.add(LABELS, ANSWER)
    found = meter.figures()

    assert found.scores.mean_iou == (3 / 4 + 1) / 2
    assert found.scores.mean_iou_of_all == (3 / 4 + 1 + 0) / 3
    assert found.mean() == "mIoU 0.8750 (0.5833 with 'void', not scored)"
    assert found.as_dict()["mean_iou_of_all"] == 0.583333
    assert found.as_dict()["unscored"] == ["void"]


def test_where_every_class_is_scored_one_figure_is_told() -> None:
    meter = MaskMeter(CLASSES)
    meter.add(LABELS, ANSWER)
    found = meter.figures()

    assert found.mean() == "mIoU 0.5833"
    assert {"mean_iou_of_all", "unscored"}.isdisjoint(found.as_dict())


def test_a_contract_names_unscored_classes_in_its_json_only_where_there_are_some() -> None:
    without = PLAIN.model_copy(update={"unscored": ("void",)})

    assert "unscored" not in json.loads(PLAIN.to_json())
    assert json.loads(without.to_json())["unscored"] == ["void"]
    assert without.sha256 != PLAIN.sha256
    assert Contract.from_json(without.to_json(), "test").unscored_numbers == (2,)


def test_contracts_that_differ_in_what_is_scored_say_so() -> None:
    without = PLAIN.model_copy(update={"unscored": ("void",)})

    for one, other in ((PLAIN, without), (without, PLAIN)):
        with pytest.raises(ContractError, match="disagree about the contract \\(unscored\\)"):
            one.require_same(other, "a", "b")


@pytest.mark.parametrize(("names", "problem"), [(("viod",), "names what is no class"), (CLASSES, "names every class")])
def test_unscored_classes_are_some_of_the_classes(names: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Contract(classes=CLASSES, network_size=(8, 8), unscored=names)


def test_the_configs_unscored_classes_are_checked_and_left_out_of_parameters_by_default() -> None:
    assert "unscored" not in config_with("").sections("data")["data"]
    assert config_with('unscored = ["b"]').sections("data")["data"]["unscored"] == ["b"]
    with pytest.raises(ConfigError, match="unscored names what is no class"):
        config_with('unscored = ["c"]')


def test_an_unscored_class_may_be_absent_from_the_labels() -> None:
    scored, unscored = config_with("").data, config_with('unscored = ["b"]').data
    assert isinstance(scored, FolderData)
    assert isinstance(unscored, FolderData)

    assert len(class_faults(scored, "val", (9, 0), 0)) == 1
    assert class_faults(unscored, "val", (9, 0), 0) == []


def test_an_imported_contract_takes_them_from_its_data_and_hands_them_to_segpipe_toml(tmp_path: Path) -> None:
    data = {"kind": "folder", "root": "data", "classes": list(importing.CLASSES), "unscored": ["disc"]}
    described = [importing.CONTRACT | {"data": data}, importing.CONTRACT | {"unscored": ["disc"]}]

    for number, content in enumerate(described):
        path = tmp_path / f"{number}.toml"
        path.write_text(tomli_w.dumps(content), encoding="utf-8")
        found = read_description(path)
        written = parse_toml(_starter(found, tmp_path, tmp_path, "test"), "test")
        assert found.contract.unscored == ("disc",)
        assert written["data"]["unscored"] == ["disc"]


def test_the_gate_holds_no_floor_to_an_unscored_class_that_has_labels() -> None:
    labels = np.where(LABELS == 255, 2, LABELS)  # an answer of void elsewhere costs it half of its IoU
    floors = Limits(min_miou=0.8, min_class_iou=0.7)

    verdicts = {}
    for unscored in ((), (2,)):
        shape = MaskShape(3, boundary_px=1, unscored=unscored)
        masks = MaskComparison(shape)
        masks.add(Truth.of(ANSWER, labels, None, shape), ANSWER)
        verdicts[unscored] = [check.status for check in hop_accuracy(masks, floors, CLASSES)]

    assert verdicts == {(): ["failed", "failed"], (2,): ["passed", "passed"]}


def test_a_trained_run_tells_both_figures() -> None:
    figures = TrainFigures(test_miou=0.572, test_miou_of_all=0.5243, unscored=("void",))

    assert figures.headline() == "test mIoU 0.5720 (0.5243 with 'void', not scored)"
    assert list(figures.lines()) == ["accuracy    mIoU 0.5720 (0.5243 with 'void', not scored) on held-out frames"]
