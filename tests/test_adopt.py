"""Adopting: a network trained elsewhere is taken as it is, measured as training measures, and never trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from segpipe.artifacts import CHECKPOINT
from segpipe.rundir.directory import RunDirectory
from stages.config.file import load_config
from stages.pipeline import Selection, run_stages
from stages.results.gate import GateReport
from tests.calling import call
from tests.old_runs import unpack
from tests.tiny import TOML, write_toml

FIGURES = ("val_miou", "test_miou", "test_pixel_accuracy", "test_classes")
NAMED = '[model]\ntrained = "theirs.pth"\n'


@pytest.fixture(scope="session")
def old_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of few weights for frames of few pixels."""
    return unpack("run", tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="session")
def toml(old_run: Path) -> str:
    """What it was trained with, and that it is trained."""
    return (old_run / "segpipe.toml").read_text().replace("[model]\n", NAMED)


@pytest.fixture(scope="session")
def weights(old_run: Path) -> dict[str, Tensor]:
    """What somebody trained: names and tensors, nothing of ours."""
    return dict(load_file(RunDirectory(old_run).artifact("train", CHECKPOINT)))


def their_run(path: Path, content: Mapping[str, Any], toml: str) -> Path:
    """A run directory that names a file of weights."""
    write_toml(path, toml)
    torch.save(dict(content), path / "theirs.pth")
    return path


def adopt(run: Path, last: str = "train") -> RunDirectory:
    """As the command does."""
    return run_stages(run, load_config(run), run, Selection(last=last))


def refusal(run: Path) -> str:
    """What `segpipe adopt` says where it ends with exit code 1, on one line."""
    code, _, error = call("adopt", run)
    assert code == 1, error
    assert "Traceback" not in error
    return error


def test_an_adopted_network_has_the_weights_and_the_figures_that_its_training_recorded(
    finished_run: Path, tmp_path: Path
) -> None:
    weights = load_file(RunDirectory(finished_run).artifact("train", CHECKPOINT))
    run = adopt(their_run(tmp_path, weights, TOML.replace("[model]\n", NAMED)))
    kept = load_file(run.artifact("train", CHECKPOINT))
    trained, adopted = (one.record("train").figures for one in (RunDirectory(finished_run), run))
    trained["val_miou"] = round(trained["val_miou"], 6)  # training notes all digits of the metric it watches

    assert {name: adopted[name] for name in FIGURES} == {name: trained[name] for name in FIGURES}
    assert {name: tensor.numpy().tobytes() for name, tensor in kept.items()} == {
        name: tensor.numpy().tobytes() for name, tensor in weights.items()
    }  # batch norms' statistics among them
    assert "epochs" not in adopted


def test_every_later_stage_goes_on_from_it_and_nothing_is_trained(
    weights: dict[str, Tensor], toml: str, tmp_path: Path
) -> None:
    path = their_run(tmp_path, weights, toml)
    code, out, told = call("adopt", path)
    before = RunDirectory(path).record("train")
    run = adopt(path, "validate")
    report = GateReport.model_validate_json(run.artifact_bytes("validate", "report.json"))
    shown = call("show", path)[1]

    assert code == 0
    assert out.strip() == str(run.artifact("train", CHECKPOINT))
    assert "accuracy    mIoU" in told
    assert run.record("train") == before
    assert report.reference == "PyTorch FP32"
    assert report.status == "passed"
    assert "adopted theirs.pth: test mIoU" in shown
    assert "stale" not in shown


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda state: {f"module.{k}": v for k, v in state.items()}, "without the prefix 'module.'"),
        (lambda state: {f"model.net.{k}": v for k, v in state.items()}, "without the prefix 'model.net.'"),
        (lambda state: {"epoch": 3, "optimizer": {}, "model": state}, "in 'model'"),
        (
            lambda state: {"state_dict": {"mean": torch.zeros(3)} | {f"model.{k}": v for k, v in state.items()}},
            "in 'state_dict', without the prefix 'model.'; left out, as no part of the network: mean",
        ),
        (lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, "theirs.pth\n"),
    ],
)
def test_weights_are_found_in_what_training_code_puts_around_them(
    wrap: Any, said: str, weights: dict[str, Tensor], toml: str, tmp_path: Path
) -> None:
    told = call("adopt", their_run(tmp_path, wrap(weights), toml))[2]

    assert said in next(f"{line}\n" for line in told.splitlines() if "tensors from" in line)


def test_weights_of_another_architecture_are_refused_with_names_and_shapes(
    weights: dict[str, Tensor], toml: str, tmp_path: Path
) -> None:
    first, second, third = [name for name in weights if weights[name].ndim == 4][:3]
    others = {name: tensor for name, tensor in weights.items() if name != first}
    others |= {second: weights[second][..., :1], "aux.weight": torch.zeros(2, 3)}
    said = refusal(their_run(tmp_path, others, toml))

    assert f"1 missing ({first} {list(weights[first].shape)})" in said
    assert "1 unknown (aux.weight [2, 3])" in said
    assert f"1 of another shape ({second} [" in said
    assert third not in said


def test_a_file_of_which_nothing_fits_is_refused_with_what_both_hold(toml: str, tmp_path: Path) -> None:
    said = refusal(their_run(tmp_path, {f"layer{n}.weight": torch.zeros(n + 1) for n in range(5)}, toml))

    assert "no tensor of theirs.pth fits this network: it holds layer0.weight [1], " in said
    assert "and 2 more; the network has stem" in said


def test_a_pickle_with_code_is_refused_and_its_code_not_run(toml: str, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    said = refusal(their_run(tmp_path, {"state_dict": {"a": Code()}}, toml))

    assert "theirs.pth cannot be read as weights" in said
    assert not (tmp_path / "ran").exists()


def test_adopting_and_training_are_not_taken_for_each_other(toml: str, tmp_path: Path) -> None:
    write_toml(tmp_path / "untrained", TOML)
    write_toml(tmp_path / "trained", toml)
    write_toml(tmp_path / "both", toml.replace("[model]\n", '[model]\nweights = "a.pth"\n'))

    assert "names no trained weights. set trained = " in refusal(tmp_path / "untrained")
    code, _, error = call("train", tmp_path / "trained")
    assert code == 1
    assert "'theirs.pth' is trained already. `segpipe adopt" in error
    assert "exclude each other" in refusal(tmp_path / "both")
    assert "theirs.pth does not exist" in refusal(tmp_path / "trained")


def test_other_weights_are_adopted_again_and_training_settings_change_nothing(
    weights: dict[str, Tensor], toml: str, tmp_path: Path
) -> None:
    path = their_run(tmp_path, weights, toml)
    first = adopt(path).record("train")
    write_toml(path, toml.replace("epochs = 2", "epochs = 7"))
    again = adopt(path).record("train")
    torch.save({name: tensor * 2 for name, tensor in weights.items()}, path / "theirs.pth")

    assert (again.key, again.started_utc) == (first.key, first.started_utc)
    assert adopt(path).record("train").key != first.key


def test_no_checkpoint_of_older_runs_gets_another_byte(old_run: Path) -> None:
    data = RunDirectory(old_run).artifact_bytes("train", CHECKPOINT)

    assert b"trained" not in data[: int.from_bytes(data[:8], "little") + 8]


def test_safetensors_serve_as_well(weights: dict[str, Tensor], toml: str, tmp_path: Path) -> None:
    write_toml(tmp_path, toml.replace("theirs.pth", "theirs.safetensors"))
    save_file(weights, tmp_path / "theirs.safetensors")

    assert adopt(tmp_path).record("train").figures["adopted"]["file"] == "theirs.safetensors"
