"""Pruning: what is cut and what stays, rebuilt by its shapes to the bit, trained on beside a control, known to all."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segpipe.artifacts import UNPRUNED
from segpipe.contract.schema import Contract
from segpipe.errors import ConfigError, InputError, SegpipeError
from segpipe.rundir.directory import RunDirectory
from stages.config.file import load_config
from stages.config.root import Config, ModelConfig
from stages.models import build_network, checkpoint
from stages.models.checkpoint import Trained
from stages.models.pruned import reshaped_to
from stages.pipeline import Selection, run_stages
from stages.results.figures import Pruned, TrainFigures, require
from stages.train import _key_parts, cutting, pruning
from stages.train.further import unpruned
from stages.train.resume import KeepResumePoint
from stages.train.trainer import Folders
from tests.tiny import tiny_config

pytest.importorskip("torch_pruning")

TRAIN = Selection(last="train")
SHORT = ("train.epochs=1", "data.train=8", "data.val=2", "data.test=2", "model.options={ width = 8 }")
CUT = (*SHORT, "compress.prune={ macs = 0.5, epochs = 2 }")
PALETTE = ((0, 0, 0),) * 5
CONTRACT = Contract(classes=tuple("abcde"), network_size=(32, 32), output_stride=4, size_multiple=32)
SKIPNET = ModelConfig(name="skipnet", options={"width": 8})


class Depthwise(nn.Module):
    """Layers of every kind that is cut, an auxiliary head, and a convolution in groups."""

    stride = size_multiple = 4

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(16, 32, 1), nn.ReLU())
        self.depth = nn.Sequential(nn.Conv2d(32, 32, 3, 2, 1, groups=32), nn.BatchNorm2d(32), nn.ReLU())
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.down = nn.Conv2d(16, 32, 3, 2, 1)
        self.head = nn.Conv2d(32, classes, 1)
        self.auxiliary = nn.Conv2d(16, classes, 1)

    def forward(self, image: Tensor) -> Any:
        stem = self.stem(image)
        scores = self.head(self.down(self.up(self.depth(self.wide(stem)))))
        return (scores, self.auxiliary(stem)) if self.training else scores


class Grouped(Depthwise):
    """Its depthwise convolution has four channels a group."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.wide = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, groups=4), nn.ReLU())


class Hidden(Depthwise):
    """Its auxiliary head has channels of its own."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.auxiliary: Any = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, classes, 1))


DEPTHWISE = ModelConfig(name="tests.test_prune:Depthwise")
NETWORKS = {"skipnet": SKIPNET, "depthwise, transposed, auxiliary": DEPTHWISE}


def built(model: ModelConfig = SKIPNET, seed: int = 0) -> nn.Module:
    """With batch norms that are no identity."""
    torch.manual_seed(seed)
    network = build_network(model, 3, 5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pruned_network_is_made_again_from_its_shapes_to_the_bit(name: str) -> None:
    network = built(NETWORKS[name])
    frame = cutting.example(CONTRACT)
    cut = cutting.cut_to(network, CONTRACT, 0.5)
    share = cutting.macs_of(cut, frame) / cutting.macs_of(network, frame)
    data = checkpoint.to_bytes(Trained(cut, CONTRACT, PALETTE, pruned=True), NETWORKS[name])
    again = checkpoint.from_bytes(data)
    noise = torch.randn(2, 3, 32, 32)

    assert 0.3 < share <= 0.5
    assert again.pruned
    with torch.inference_mode():
        assert torch.equal(again.network(noise), cut.eval()(noise))
    assert checkpoint.to_bytes(again, NETWORKS[name]) == data
    assert b"pickle" not in data


def test_the_search_comes_near_what_is_wanted_and_never_above() -> None:
    network, frame = built(ModelConfig(name="skipnet", options={"width": 16})), cutting.example(CONTRACT)
    share = cutting.macs_of(cutting.cut_to(network, CONTRACT, 0.3), frame) / cutting.macs_of(network, frame)

    assert 0.25 < share <= 0.3


def test_a_larger_ratio_never_leaves_more() -> None:
    network, frame = built(DEPTHWISE), cutting.example(CONTRACT)
    counts = [cutting.macs_of(cutting.pruned(network, frame, ratio), frame) for ratio in (0.0, 0.3, 0.7, 1.0)]

    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < 0.3 * counts[0]


def test_multiplications_are_counted_as_by_hand() -> None:
    layer = nn.Conv2d(3, 8, 3, padding=1, bias=False).train()

    assert cutting.macs_of(layer, torch.zeros(1, 3, 10, 20)) == 10 * 20 * 8 * 3 * 9
    assert layer.training


def test_heads_stay_whole_and_are_named_auxiliary_ones_too() -> None:
    network = built(DEPTHWISE)
    cut: Any = cutting.cut_to(network, CONTRACT, 0.4)

    assert cutting.what_stays(network, cutting.example(CONTRACT)) == {"head": ("auxiliary", "head")}
    assert (cut.head.out_channels, cut.auxiliary.out_channels) == (5, 5)
    assert cut.head.in_channels < 32
    assert cut.depth[0].groups == cut.depth[0].out_channels < 32


def test_a_convolution_in_groups_is_named_and_left_alone() -> None:
    network = built(ModelConfig(name="tests.test_prune:Grouped"))

    assert cutting.what_stays(network, cutting.example(CONTRACT))["not prunable"] == ("wide.0",)
    cut: Any = cutting.cut_to(network, CONTRACT, 0.7)
    assert (cut.wide[0].out_channels, cut.wide[0].groups) == (32, 4)


def test_one_changes_nothing_and_too_little_is_refused_with_what_is_possible() -> None:
    network = built(DEPTHWISE)

    assert cutting.parameters_of(cutting.cut_to(network, CONTRACT, 1.0)) == cutting.parameters_of(network)
    with pytest.raises(ConfigError, match=r"macs = 0\.01: no more .* than leaves 0\.\d+\. set macs to 0\.\d+ or more"):
        cutting.cut_to(network, CONTRACT, 0.01)


def test_cutting_leaves_the_network_that_it_was_given_as_it_is() -> None:
    network = built(DEPTHWISE).train()
    before = checkpoint.to_bytes(Trained(network, CONTRACT, PALETTE), DEPTHWISE)
    cutting.cut_to(network, CONTRACT, 0.5)

    assert checkpoint.to_bytes(Trained(network, CONTRACT, PALETTE), DEPTHWISE) == before
    assert network.training


def test_the_smallest_channels_are_cut() -> None:
    network: Any = built(DEPTHWISE)
    with torch.no_grad():
        network.down.weight[::2] *= 1e-3
        network.down.bias[::2] *= 1e-3
        network.head.weight[:, ::2] *= 1e-3
    cut: Any = cutting.pruned(network, cutting.example(CONTRACT), 0.2)

    assert cut.down.out_channels < 32
    assert float(cut.down.weight.detach().abs().amax((1, 2, 3)).median()) > 0.01


def test_channels_that_only_an_auxiliary_output_has_stay() -> None:
    """They are not deployed, so cutting them saves nothing."""
    network = built(ModelConfig(name="tests.test_prune:Hidden"))
    cut: Any = cutting.cut_to(network, CONTRACT, 0.4)
    before, after = (cutting.macs_of(one, cutting.example(CONTRACT)) for one in (network, cut))

    assert after <= 0.4 * before
    assert cut.auxiliary[0].out_channels == 24


def test_tensors_of_another_network_are_not_reshaped_into_this_one() -> None:
    network = built()
    state = {"head.weight": torch.zeros(7), "stem.0.weight": torch.zeros(4, 3, 3, 3)}
    reshaped_to(network, state)

    with pytest.raises(RuntimeError, match="head"):
        network.load_state_dict(state)


@pytest.mark.parametrize("macs", ["0", "-0.5", "1.5", "nan"])
def test_a_share_that_is_none_is_refused(macs: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"compress\.prune\.macs"):
        tiny_config(tmp_path, f"compress.prune.macs={macs}")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("model.trained=weights.pth",), r"\[compress\.prune\] trains, and \[model\] trained is taken as it is"),
        (("train.learning_rate=find",), r"set \[train\] learning_rate to what was found"),
    ],
)
def test_what_cannot_be_trained_further_is_refused(settings: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny_config(tmp_path, "compress.prune.macs=0.5", *settings)


def test_an_imported_network_is_refused_at_once(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path).step("import", {"model": "x"}, {}) as step:
        step.path("model.onnx").write_bytes(b"graph")

    with pytest.raises(InputError, match="an imported network: a graph without weights to train"):
        run_stages(tmp_path, tiny_config(tmp_path, "compress.prune.macs=0.5"), tmp_path, Selection())


def test_what_cannot_be_cut_so_far_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no more of this network can be cut away"):
        run_stages(tmp_path, tiny_config(tmp_path, *SHORT, "compress.prune.macs=0.01"), tmp_path, TRAIN)
    assert not list(tmp_path.glob("train/*.partial/resume/*.ckpt"))


@pytest.fixture(scope="module")
def pruned_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Trained for one epoch, cut to half, trained for two more, exported. Shared: never write to it."""
    path = tmp_path_factory.mktemp("pruned") / "run"
    return run_stages(path, tiny_config(path, *CUT), path, Selection(last="export"))


def test_the_record_says_what_was_cut_and_what_the_control_reached(pruned_run: RunDirectory) -> None:
    figures = require(TrainFigures, pruned_run)
    found = figures.pruned

    assert found is not None
    assert found.macs_wanted == 0.5
    assert 0.3 < found.share <= 0.5
    assert found.parameters_after < found.parameters_before
    assert found.control_test_miou is not None
    assert found.kept == {"head": ("head",)}
    assert figures.headline().endswith(found.plain())
    assert any("head: head" in line for line in figures.lines())
    assert figures.epochs == 2


def test_export_and_every_later_stage_have_the_pruned_network(pruned_run: RunDirectory) -> None:
    """Export compares PyTorch and the graph itself; here: the graph's weights are as few as the record says."""
    found = require(TrainFigures, pruned_run).pruned
    assert found is not None
    network = checkpoint.from_bytes(pruned_run.artifact_bytes("train", checkpoint.FILE_NAME)).network
    unpruned = checkpoint.from_bytes(pruned_run.artifact_bytes("train", UNPRUNED))

    assert cutting.parameters_of(network) == found.parameters_after
    assert pruned_run.record("export").figures["parameters"] == found.parameters_after
    assert cutting.parameters_of(unpruned.network) == found.parameters_before
    assert not unpruned.pruned


def test_a_pruned_checkpoint_is_adopted_as_the_network_it_is(pruned_run: RunDirectory, tmp_path: Path) -> None:
    weights = pruned_run.artifact("train", checkpoint.FILE_NAME)
    config = tiny_config(tmp_path, *SHORT, f"model.trained={weights}")
    adopted = run_stages(tmp_path, config, tmp_path, TRAIN)
    ours, theirs = (
        checkpoint.from_bytes(run.artifact_bytes("train", checkpoint.FILE_NAME)) for run in (adopted, pruned_run)
    )
    noise = torch.randn(1, 3, 64, 96)

    assert ours.pruned
    with torch.inference_mode():
        assert torch.equal(ours.network(noise), theirs.network(noise))


def test_weights_of_a_stranger_are_not_taken_for_pruned(tmp_path: Path) -> None:
    from safetensors.torch import save

    for name, data in {"theirs": save({"a": torch.zeros(2)}), "torn": b"\xff" * 9, "empty": b""}.items():
        (tmp_path / f"{name}.safetensors").write_bytes(data)
        assert not checkpoint.is_pruned(tmp_path / f"{name}.safetensors")
    assert not checkpoint.is_pruned(tmp_path / "weights.pth")


def test_an_unpruned_checkpoint_says_nothing_of_pruning() -> None:
    data = checkpoint.to_bytes(Trained(built(), CONTRACT, PALETTE), SKIPNET)
    length = int.from_bytes(data[:8], "little")
    description = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["segpipe"])

    assert set(description) == {"contract", "model", "palette"}, "as before there was pruning: bytes stay"


def test_pruning_resumes_in_each_of_its_trainings_to_the_same_bytes(
    pruned_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped after the first epoch of the control, then of the pruned network."""
    caplog.set_level("INFO")
    stop_in_each(monkeypatch)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_stages(tmp_path, tiny_config(tmp_path, *CUT), tmp_path, TRAIN)
    monkeypatch.undo()
    run = run_stages(tmp_path, tiny_config(tmp_path, *CUT), tmp_path, TRAIN)

    assert run.record("train").outputs == pruned_run.record("train").outputs
    epochs = [message.partition(",")[0] for message in caplog.messages if ": epoch" in message]
    assert epochs == [
        "train: epoch 1 of 1", "control: epoch 1 of 2", "control: epoch 2 of 2", "pruned: epoch 1 of 2",
        "pruned: epoch 2 of 2",
    ], "no finished epoch is trained again"  # fmt: skip


def stop_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the trainings after the cut once their first epoch is kept."""
    real = KeepResumePoint.keep

    def keep_then_stop(self: KeepResumePoint, trainer: Any) -> None:
        real(self, trainer)
        if self._folder.name in {"control", "pruned"} and trainer.current_epoch == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(KeepResumePoint, "keep", keep_then_stop)


def test_another_share_begins_with_the_unpruned_network_that_is_there(pruned_run: RunDirectory) -> None:
    def found(*settings: str) -> bytes | None:
        return unpruned(pruned_run, *_key_parts(load_config(pruned_run.path, settings), pruned_run.path, None))

    kept = pruned_run.artifact_bytes("train", UNPRUNED)
    assert found(*SHORT, "compress.prune.macs=0.7") == kept
    assert found(*SHORT, "compress.prune.macs=0.7", "train.seed=2") is None


def test_a_trained_run_is_pruned_without_training_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_stages(tmp_path, tiny_config(tmp_path, *SHORT), tmp_path, TRAIN)
    before = run.artifact_bytes("train", checkpoint.FILE_NAME)
    given: list[bytes | None] = []

    def note(config: Config, base: Path, folders: Folders, unpruned: bytes | None) -> Any:
        given.append(unpruned)
        raise KeyboardInterrupt

    monkeypatch.setattr(pruning, "fit_pruned", note)
    for forced in (False, True):
        with pytest.raises(KeyboardInterrupt):
            run_stages(tmp_path, tiny_config(tmp_path, *CUT), tmp_path, Selection(last="train", force=forced))

    assert given == [before, None], "--force trains it again"


def test_without_torch_pruning_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)

    with pytest.raises(SegpipeError, match=r"needs torch-pruning.*segpipe\[compress\]"):
        cutting.cut_to(built(), CONTRACT, 0.5)


def test_figures_read_as_a_person_would_say_them() -> None:
    found = Pruned(
        macs_wanted=0.5, macs_before=1000, macs_after=490, parameters_before=100, parameters_after=62,
        control_test_miou=0.8,
    )  # fmt: skip

    assert found.plain() == "pruned to 49% of the MACs and 62% of the weights; unpruned control: mIoU 0.8000"
    assert np.isclose(found.share, 0.49)


def test_the_unpruned_network_teaches_unless_it_is_told_not_to(pruned_run: RunDirectory, tmp_path: Path) -> None:
    """The control learns alone, so it ends as beside a pruned network that nobody teaches."""
    path = Path(shutil.copytree(pruned_run.path, tmp_path / "run"))
    settings = (*SHORT, "compress.prune={ macs = 0.5, epochs = 2, taught = false }")
    run = run_stages(path, tiny_config(path, *settings), path, TRAIN)
    alone, found = (require(TrainFigures, one).pruned for one in (run, pruned_run))

    assert found is not None
    assert alone is not None
    assert found.taught
    assert not alone.taught
    assert "taught by the unpruned network" in found.plain()
    assert found.control_test_miou == alone.control_test_miou
    weights = [one.record("train").outputs[checkpoint.FILE_NAME] for one in (run, pruned_run)]
    assert weights[0] != weights[1]


def test_a_teacher_that_is_named_is_the_only_one(tmp_path: Path) -> None:
    def teaches_itself(*settings: str) -> bool:
        return tiny_config(tmp_path, *settings).compress.teaches_itself

    assert teaches_itself("compress.prune.macs=0.5")
    assert not teaches_itself()
    assert not teaches_itself("compress.prune.macs=0.5", "compress.distil.teacher=../other")


def test_two_teachers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name two teachers"):
        tiny_config(tmp_path, "compress.prune={ macs = 0.5, taught = true }", "compress.distil.teacher=../other")
