"""The table of stages and the code agree: packages, commands, documents, figures, and what is made from what."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command

from segpipe.artifacts import BUILD
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.manifest import Manifest
from segpipe.rundir.status import run_status
from stages.cli import app
from stages.results.figures import MODELS, parse
from stages.table import FIRST, LAST, NAMES, TABLE, replaced, row, sources
from tests.children import ROOT
from tests.old_runs import unpack

ROWS = [stage.name for stage in TABLE]


@pytest.fixture(scope="module")
def old_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack("run", tmp_path_factory.mktemp("old"))


def test_every_stage_that_leaves_a_record_has_a_row() -> None:
    files = sorted((ROOT / "stages").rglob("*.py"))
    nodes = [node for path in files for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
    named = [node.value for node in nodes if getattr(node.targets[0], "id", "") == "STAGE"]
    found = {value.value for value in named if isinstance(value, ast.Constant)}

    assert found | {import_module("segpipe.verdict").STAGE, BUILD} == set(ROWS)


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_of_the_pipeline_is_a_package_and_a_command_and_is_documented(name: str) -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]

    assert callable(row(name).run)
    assert name == import_module(f"stages.{name}").STAGE
    assert name in get_command(app).commands  # type: ignore[attr-defined]
    assert any(re.search(rf"(segpipe |`){name}\b", path.read_text()) for path in documents)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_names_rows_above_it_and_has_a_model_of_its_figures(name: str) -> None:
    above = ROWS[: ROWS.index(name)]

    assert {*row(name).needs, *row(name).optional} <= set(above)
    assert MODELS[name].stage == name


def test_what_stands_in_for_training_is_no_part_of_the_order() -> None:
    assert replaced("train", {"import", "export"})
    assert not replaced("train", {"train"})
    assert not set(NAMES) & {stage.name for stage in TABLE if stage.replaces}
    assert (NAMES[0], NAMES[-1]) == (FIRST, LAST)


def records(run: Path) -> Manifest:
    return RunDirectory(run).manifest


def require_agreement(run: Path) -> None:
    """Each record was made from the stages that its row names, and its figures are all in the model."""
    stages = records(run).stages
    assert set(stages) == set(NAMES)
    for name, record in stages.items():
        made_from = {path.partition("/")[0] for path in record.inputs if path.count("/") > 1}
        figures = parse(MODELS[name], record.figures)

        assert made_from == set(sources(name, stages)), name
        assert figures is not None, name
        assert figures.as_record() == record.figures, name


def test_records_and_their_figures_are_what_the_table_says(finished_run: Path) -> None:
    require_agreement(finished_run)


def test_so_are_those_that_an_older_version_left(old_run: Path) -> None:
    require_agreement(old_run)


def test_an_old_runs_headlines_read_as_ever(old_run: Path) -> None:
    assert {line.stage: line.headline for line in run_status(RunDirectory(old_run))} == {
        "train": "test mIoU 0.0000",
        "export": "FP16 file 71% of FP32",
        "build": "tensorrt-rtx 100% FP16",
        "validate": "passed, 2 limits not judged, agreement 100.0000%",
        "benchmark": "0.33 ms a frame",
    }


def test_accuracy_on_val_is_not_called_a_test() -> None:
    figures = parse(MODELS["train"], {"test_miou": 0.5, "test_split": "val"})

    assert figures is not None
    assert figures.headline() == "val mIoU 0.5000"
    assert [*figures.lines()] == ["accuracy    mIoU 0.5000 on frames of val, for want of a test split"]


def test_fields_of_a_newer_version_are_passed_over(old_run: Path) -> None:
    for name, record in records(old_run).stages.items():
        newer = {key: value | {"new": 1} if name == "build" else value for key, value in record.figures.items()}
        newer |= {} if name == "build" else {"something_new": [1]}

        known, found = parse(MODELS[name], record.figures), parse(MODELS[name], newer)

        assert known is not None
        assert found is not None
        assert found.as_record() == record.figures
        assert found.headline() == known.headline()
