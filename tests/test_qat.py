"""Training for INT8: what is rounded and taken off again, repeats, resumes, and the ranges that export takes over."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from torch import Tensor, nn

from segpipe.artifacts import INT8_CPU_GRAPH, INT8_GRAPH, RANGES, UNQUANTISED
from segpipe.errors import ConfigError, ExportError, InputError
from segpipe.rundir.directory import RunDirectory
from stages.config.root import ModelConfig
from stages.graphs.calibrating import trained_spans
from stages.models import build_network, checkpoint
from stages.pipeline import Selection, run_stages
from stages.results.figures import TrainFigures, require
from stages.results.quantisation import FILE_NAME
from stages.train import _key_parts, quantising, rounding
from stages.train.further import unpruned, unquantised
from stages.train.resume import KeepResumePoint
from tests.tiny import tiny_config

TRAIN = Selection(last="train")
SHORT = ("train.epochs=1", "data.train=8", "data.val=2", "data.test=2", "train.tensorboard=false")
QAT = (*SHORT, "compress.int8=qat", "compress.qat_epochs=2", "compress.calibration_images=2")


@pytest.fixture(scope="module")
def qat_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Trained for one epoch and for two more in INT8, exported. Shared: never write to it."""
    path = tmp_path_factory.mktemp("qat") / "run"
    return run_stages(path, tiny_config(path, *QAT), path, Selection(last="export"))


def built() -> nn.Module:
    torch.manual_seed(0)
    return build_network(ModelConfig(name="skipnet", options={"width": 4}), 3, 5)


def frames(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(seed))


def test_what_is_put_on_comes_off_and_leaves_the_weights_as_they_were() -> None:
    network, plain = built(), built().eval()
    layers = rounding.put_on(network)
    with torch.inference_mode():
        rounded = network.eval()(frames())
    ranges = rounding.taken_off(network)

    assert layers == sum(isinstance(module, nn.Conv2d) for module in plain.modules())
    assert not ranges, "nothing was shown to it in training"
    assert network.state_dict().keys() == plain.state_dict().keys()
    with torch.inference_mode():
        assert torch.equal(network(frames()), plain(frames()))
        assert not torch.equal(rounded, plain(frames())), "weights are rounded from the start"


def test_weights_take_the_steps_of_each_channel_and_gradients_pass_through() -> None:
    network: Any = built()
    rounding.put_on(network)
    layer = network.stem[0]
    weight = layer.weight
    steps = weight / (weight.detach().abs().amax((1, 2, 3), keepdim=True) / 64)
    weight.sum().backward()

    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
    assert float(steps.detach().abs().max()) == pytest.approx(64)
    assert (layer.parametrizations.weight.original.grad != 0).all()


def test_ranges_begin_with_the_first_batch_and_then_follow_slowly() -> None:
    network: Any = built().train()
    rounding.put_on(network)
    network(frames())
    first = network.stem[0].input_rounding.high.clone()
    network(2 * frames())
    ranges = rounding.taken_off(network)

    top = float(frames().max())
    assert float(first) == pytest.approx(top)
    assert ranges["stem.0"][1] == pytest.approx(top + 0.02 * top, rel=1e-5)
    assert ranges["stem.0"][0] < 0 < ranges["stem.0"][1]


def test_batch_norms_keep_their_statistics_while_it_trains() -> None:
    network = built().train()
    rounding.put_on(network)
    network(frames())
    rounding.taken_off(network.train())
    plain = built().train()
    plain(frames())

    assert not any(means(network)), "as they were made"
    assert any(means(plain))


def means(network: nn.Module) -> list[float]:
    """Of the statistics that batch norms keep."""
    state = network.state_dict()
    return [float(state[name].abs().sum()) for name in state if name.endswith("running_mean")]


def test_a_network_without_layers_to_round_is_refused() -> None:
    with pytest.raises(ConfigError, match="no layer of this network multiplies by weights"):
        rounding.put_on(nn.ReLU())


def test_layers_that_make_their_weights_themselves_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, *QAT, "model.name=tests.test_qat:normed", "model.options={}")

    with pytest.raises(ConfigError, match="'0' makes its weights of other numbers"):
        run_stages(tmp_path, config, tmp_path, TRAIN)
    assert not list(tmp_path.glob("train/*.partial/resume/*"))


def normed(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(channels, classes, 1)))


def test_the_ranges_of_the_graphs_are_those_of_training(qat_run: RunDirectory) -> None:
    """Folding a batch norm renames its convolution's module, and scales its channels whole."""
    ranges = json.loads(qat_run.artifact_bytes("train", RANGES))
    report = json.loads(qat_run.artifact_bytes("export", FILE_NAME))
    found = sorted(tuple(layer["input_range"]) for layer in report["layers"])

    assert report["way"] == "qat"
    assert {INT8_CPU_GRAPH, INT8_GRAPH} <= set(qat_run.record("export").outputs)
    assert len(found) == len(ranges)
    np.testing.assert_allclose(found, sorted(map(tuple, ranges.values())), rtol=1e-5)
    assert any(name.endswith(RANGES) for name in qat_run.record("export").inputs)


def test_a_graph_that_no_range_is_about_is_refused() -> None:
    with pytest.raises(ExportError, match="no layer of the graph is known by a range"):
        trained_spans([], b'{"stem.0": [0, 1]}')
    with pytest.raises(ExportError, match="is not a ranges of training"):
        trained_spans([], b'{"stem.0": 1}')


def test_the_record_tells_what_it_was_before_and_what_it_is_rounded(qat_run: RunDirectory, tmp_path: Path) -> None:
    plain = run_stages(tmp_path, tiny_config(tmp_path, *SHORT), tmp_path, TRAIN)
    figures = require(TrainFigures, qat_run)
    found = figures.for_int8

    assert qat_run.artifact_bytes("train", UNQUANTISED) == plain.artifact_bytes("train", checkpoint.FILE_NAME)
    assert found is not None
    assert (found.epochs, found.before_test_miou) == (2, require(TrainFigures, plain).test_miou)
    assert found.test_miou is not None
    assert figures.headline().endswith(found.plain())
    assert any(line.startswith("int8        trained for INT8 (2 epochs,") for line in figures.lines())
    now, before = (load(qat_run.artifact_bytes("train", name)) for name in (checkpoint.FILE_NAME, UNQUANTISED))
    assert now.keys() == before.keys(), "nothing of the rounding is in the checkpoint"
    assert any((now[name] != before[name]).any() for name in now)
    assert all((now[name] == before[name]).all() for name in now if "running" in name)


def test_it_resumes_in_its_second_training_to_the_same_bytes(
    qat_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    stop_in_int8(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_stages(tmp_path, tiny_config(tmp_path, *QAT), tmp_path, TRAIN)
    monkeypatch.undo()
    run = run_stages(tmp_path, tiny_config(tmp_path, *QAT), tmp_path, TRAIN)

    assert run.record("train").outputs == qat_run.record("train").outputs
    epochs = [message.partition(",")[0] for message in caplog.messages if ": epoch" in message]
    assert epochs == ["train: epoch 1 of 1", "int8: epoch 1 of 2", "int8: epoch 2 of 2"]


def stop_in_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the training in INT8 once its first epoch is kept."""
    real = KeepResumePoint.keep

    def keep_then_stop(self: KeepResumePoint, trainer: Any) -> None:
        real(self, trainer)
        if self._folder.name == "int8" and trainer.current_epoch == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(KeepResumePoint, "keep", keep_then_stop)


def test_other_epochs_and_pruning_begin_with_the_network_that_is_there(qat_run: RunDirectory) -> None:
    def key(*settings: str) -> Any:
        return _key_parts(tiny_config(qat_run.path.parent / "other", *settings), qat_run.path, None)

    kept = qat_run.artifact_bytes("train", UNQUANTISED)
    begun = unquantised(qat_run, *key(*QAT, "compress.qat_epochs=7"))

    assert begun is not None
    assert begun.network == kept
    assert quantising.before_int8(begun).before_test_miou == begun.figures["for_int8"]["before_test_miou"]
    assert unquantised(qat_run, *key(*QAT, "train.seed=2")) is None
    assert unpruned(qat_run, *key(*SHORT, "compress.prune.macs=0.5")) == kept


def test_only_qat_is_part_of_the_training(tmp_path: Path) -> None:
    def training(*settings: str) -> dict[str, Any]:
        return tiny_config(tmp_path, *settings).training()

    assert training("compress.int8=ptq", "compress.qat_epochs=3") == training()
    assert training("compress.int8=qat")["compress.int8"] == "qat"
    assert "compress.qat_epochs" not in training("compress.int8=qat"), "a default"
    assert training("compress.int8=qat", "compress.qat_epochs=3")["compress.qat_epochs"] == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("model.trained=weights.pth",), r'\[compress\] int8 = "qat" trains, and \[model\] trained is taken as it is'),
        (("train.learning_rate=find",), r"set \[train\] learning_rate to what was found"),
        (("compress.qat_epochs=0",), r"compress\.qat_epochs"),
    ],
)
def test_what_cannot_be_trained_in_int8_is_refused(settings: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny_config(tmp_path, "compress.int8=qat", *settings)


def test_an_imported_network_is_refused_at_once(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path).step("import", {"model": "x"}, {}) as step:
        step.path("model.onnx").write_bytes(b"graph")

    with pytest.raises(InputError, match=r'int8 = "qat" trains, and .* an imported network: a graph without weights'):
        run_stages(tmp_path, tiny_config(tmp_path, "compress.int8=qat"), tmp_path, Selection())


def test_inputs_are_cut_to_their_range_and_rounded_to_its_steps() -> None:
    layer = rounding._Input().train()
    layer(torch.tensor([-0.5, 1.0]))
    found = layer.eval()(torch.tensor([-9.0, -0.5, 0.3, 1.0, 9.0]))

    np.testing.assert_allclose(found.numpy() * 127, np.rint(found.numpy() * 127), atol=1e-4)
    np.testing.assert_allclose(found.numpy(), [-0.5, -0.5, 0.3, 1.0, 1.0], atol=0.5 / 127)
