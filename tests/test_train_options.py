"""Options of [train]: each is a line in the config that changes what it says."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from safetensors.numpy import load
from torch import Tensor, nn

from segpipe.errors import ConfigError, DataError, TrainingError
from segpipe.rundir.directory import RunDirectory
from stages.config.file import parse_config
from stages.config.root import TrainConfig
from stages.pipeline import Selection, run_stages
from stages.train.dataset import EpochBatches, Process
from stages.train.optimisation import optimiser_of, schedule_of
from stages.train.trainer import lost_workers_explained
from tests.tiny import tiny_config

STEPS = 40


def rates(**train: object) -> list[float]:
    """The learning rate of every step of a training of 10 epochs of 4 steps."""
    config = TrainConfig(epochs=10, learning_rate=1.0, **train)  # type: ignore[arg-type]
    optimiser = optimiser_of(nn.Linear(1, 1), config, 1.0)
    schedule, seen = schedule_of(optimiser, config, STEPS), []
    for _ in range(STEPS):
        seen.append(float(optimiser.param_groups[0]["lr"]))
        optimiser.step()
        schedule.step()
    return seen


def train(path: Path, *overrides: str) -> RunDirectory:
    """Train the tiny network with these settings."""
    return run_stages(path, tiny_config(path, *overrides), path, Selection(last="train"))


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "poly", "step", "exponential", "constant"])
def test_every_schedule_rises_in_its_warmup_and_never_after(schedule: str) -> None:
    seen = rates(schedule=schedule, warmup_epochs=2, step_epochs=3)

    assert seen[:9] == sorted(seen[:9])
    assert seen[0] < 0.2
    assert max(seen) > 0.99
    assert seen[9:] == sorted(seen[9:], reverse=True)


def test_schedules_end_where_they_should() -> None:
    ends = {name: rates(schedule=name)[-1] for name in ("one-cycle", "cosine", "poly", "exponential", "constant")}

    assert max(ends["one-cycle"], ends["cosine"]) < 0.01
    assert ends["poly"] == pytest.approx((1 / STEPS) ** 0.9)
    assert ends["exponential"] == pytest.approx(0.1, rel=0.1)
    assert ends["constant"] == 1.0
    assert rates(schedule="step", step_epochs=5, decay=0.5)[::20] == [1.0, 0.5]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_the_encoder_learns_at_its_own_rate(name: str) -> None:
    network = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    network.encoder = network["encoder"]
    config = TrainConfig(optimiser=name, encoder_factor=0.25)  # type: ignore[arg-type]

    groups = optimiser_of(network, config, 0.1).param_groups
    assert [group["lr"] for group in groups] == [0.1, 0.025]
    assert [len(group["params"]) for group in groups] == [2, 2]


def test_an_encoder_factor_needs_an_encoder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Auxiliary does not say what its encoder is"):
        train(
            tmp_path,
            "train.encoder_factor=0.1",
            "model.name=tests.test_train_options:with_auxiliary",
            "model.options={}",
        )


def test_batches_of_several_processes_are_those_of_one() -> None:
    config = TrainConfig(batch_size=4)
    whole = list(EpochBatches(11, config, 3, Process()))
    halves = [list(EpochBatches(11, config, 3, Process(rank, 2))) for rank in (0, 1)]

    assert whole == [a + b for a, b in zip(*halves, strict=True)]
    assert len(whole) == 2
    with pytest.raises(DataError, match="3 frames, less than one batch of 4"):
        EpochBatches(3, config, 0, Process(0, 2))


def test_a_found_learning_rate_is_used_and_remembered(tmp_path: Path) -> None:
    run = train(tmp_path, "train.learning_rate=find", "train.epochs=1", "train.schedule=constant")
    history = run.artifact("train", "history.csv").read_text().splitlines()

    assert 1e-8 < float(history[1].split(",")[-1]) < 1.0


def test_patience_ends_training_early(tmp_path: Path) -> None:
    """With a learning rate of nothing no epoch is better than the first."""
    run = train(tmp_path, "train.patience=1", "train.epochs=9", "train.learning_rate=1e-30", "train.batch_size=16")

    assert run.record("train").figures["epochs"] < 9


def test_several_options_work_together(tmp_path: Path) -> None:
    run = train(
        tmp_path,
        "train.epochs=1",
        "train.precision=bf16",
        "train.optimiser=sgd",
        "train.accumulate=2",
        "train.loss=[{kind='ohem'},{kind='lovasz',weight=0.5}]",
        "train.class_weights=median-frequency",
        "train.late_crop=[32,64]",
        "train.late_share=1.0",
        "train.augment={transform='tests.test_train_options:inverted', rotation_degrees=10}",
        "model.name=tests.test_train_options:with_auxiliary",
        "model.options={}",
    )

    assert list((tmp_path / "logs/train").glob("events.out.tfevents.*"))
    assert np.isfinite(run.record("train").figures["val_miou"])


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")  # PyTorch's, only there
def test_a_compiled_network_trains_and_is_saved_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the C++ that PyTorch would make of its graphs: what is ours is around it, and half a minute is saved."""
    graphs: list[torch.fx.GraphModule] = []

    def kept(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=kept))
    small = ("model.name=tests.test_train_options:with_auxiliary", "model.options={}", "train.epochs=1")
    plain, compiled = (
        train(tmp_path / name, *small, "train.clip_norm=0.01", f"train.compile={name}") for name in ("false", "true")
    )

    weights = [load(run.artifact_bytes("train", "model.safetensors")) for run in (plain, compiled)]
    assert weights[0].keys() == weights[1].keys()
    for name, expected in weights[0].items():
        np.testing.assert_allclose(weights[1][name], expected, rtol=1e-3, atol=1e-5)
    assert graphs, "nothing was compiled"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.crop_height=40", "crop_height and crop_width go together"),
        ("train.late_crop=[40,64]", "train.late_crop: 40 x 64, skipnet takes multiples of 32"),
        ("train.class_weights=[1,2]", "class_weights has 2 values for 5 classes"),
        ("train.devices=3", "batch_size 4 does not divide among 3 processes"),
        ("train.augment={transform='nowhere:make'}", "No module named 'nowhere'"),
        ("train.loss=[{kind='dise'}]", "train.loss.0.kind = 'dise' is not a known kind. did you mean 'dice'?"),
        ("train.loss=[{kind='dice',wieght=2}]", "unknown key 'train.loss.0.wieght'. did you mean 'weight'?"),
        ("train.augment={scale_range=[2,1]}", "scale_range is (smallest, largest)"),
    ],
)
def test_contradictions_are_named_before_the_first_step(override: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train(tmp_path, override)

    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channels": 1}, "mean and std need one value for each of the 1 channels"),
        ({"dtype": "uint16"}, "dtype 'uint16' needs its value_range"),
        ({"value_range": [1, 1]}, "low < high"),
    ],
)
def test_inputs_that_contradict_themselves_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"data": {"kind": "shapes"}, "input": {"height": 32, "width": 32, **changes}}, "test")

    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("mapping", "gives a dict in eval mode"),
        ("always_two", "gives a tuple in eval mode"),
        ("without_stride", "gives 16 x 24 scores for 64 x 96 pixels, but it has no `stride`, which means 1"),
        ("wrong_stride", "but its `stride` is 2. set the network's attribute `stride`, here 4"),
        ("bare_layer", "the attribute `stride` of Conv2d is (1, 1), wanted a whole number"),
        ("one_channel", "gives 1 channels of scores, wanted 5"),
        ("with_extra_state", "its state_dict holds '_extra_state', a dict, which no checkpoint can keep"),
    ],
)
def test_networks_that_break_their_promises_are_refused_before_the_first_epoch(
    factory: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        train(tmp_path, f"model.name=tests.test_train_options:{factory}", "model.options={}")

    assert said in str(caught.value)
    assert not list(tmp_path.rglob("*.ckpt"))


class Promising(nn.Sequential):
    """One convolution, whose answer a function wraps."""

    def __init__(self, layer: nn.Module, wrap: Callable[[Tensor], object]) -> None:
        super().__init__(layer)
        self.wrap = wrap

    def forward(self, image: Tensor) -> object:
        return self.wrap(self[0](image))


def promising(
    channels: int, outputs: int, stride: int = 1, wrap: Callable[[Tensor], object] = lambda scores: scores
) -> nn.Module:
    """A network as factories make them."""
    return Promising(nn.Conv2d(channels, outputs, stride, stride), wrap)


def mapping(channels: int, classes: int) -> nn.Module:
    """As torchvision's networks answer."""
    return promising(channels, classes, wrap=lambda scores: {"out": scores})


def always_two(channels: int, classes: int) -> nn.Module:
    """Auxiliary scores in eval mode too."""
    return promising(channels, classes, wrap=lambda scores: (scores, scores))


def without_stride(channels: int, classes: int) -> nn.Module:
    """Does not say that it halves twice."""
    return promising(channels, classes, stride=4)


def wrong_stride(channels: int, classes: int) -> nn.Module:
    """Says that it halves once."""
    network = promising(channels, classes, stride=4)
    network.stride = 2  # type: ignore[assignment]
    return network


def bare_layer(channels: int, classes: int) -> nn.Module:
    """Its `stride` is the convolution's own."""
    return nn.Conv2d(channels, classes, 1)


def one_channel(channels: int, classes: int) -> nn.Module:
    """Scores of one class."""
    return promising(channels, 1)


class Versioned(Promising):
    """State that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 3}

    def set_extra_state(self, state: object) -> None:
        """Nothing to restore."""


def with_extra_state(channels: int, classes: int) -> nn.Module:
    """State that is no tensor."""
    return Versioned(nn.Conv2d(channels, classes, 1), lambda scores: scores)


class Auxiliary(nn.Sequential):
    """Two outputs in training, the second at half the size; one otherwise."""

    def forward(self, image: Tensor) -> "Tensor | tuple[Tensor, Tensor]":
        scores: Tensor = self[0](image)
        return (scores, scores[..., ::2, ::2]) if self.training else scores


def with_auxiliary(channels: int, classes: int) -> nn.Module:
    """A factory as users write them."""
    return Auxiliary(nn.Conv2d(channels, classes, 1))


def inverted() -> nn.Module:
    """A transform as users write them, with randomness of torch's own."""
    from torchvision.transforms import v2

    return v2.Compose([v2.RandomInvert(0.5), v2.RandomHorizontalFlip()])


def deadly() -> Callable[..., object]:
    """A transform that ends its loader worker, as the kernel does when memory is full."""

    def change(image: object, mask: object) -> object:
        if torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return image, mask

    return change


def test_a_killed_loader_worker_is_a_known_error(tmp_path: Path) -> None:
    deadly_workers = ("train.workers=1", "train.augment={transform='tests.test_train_options:deadly'}")

    with pytest.raises(TrainingError, match=r"a loader worker .*(Killed|unexpectedly).*\(train\.workers is 1\).*lower"):
        train(tmp_path, *deadly_workers)


@pytest.mark.parametrize("signal_name", ["Killed", "Terminated", "Bus error"])
def test_a_workers_end_is_told_with_what_it_mostly_means(signal_name: str) -> None:
    said = RuntimeError(f"DataLoader worker (pid 123) is killed by signal: {signal_name}. ")
    with (
        pytest.raises(TrainingError, match=f"killed by signal: {signal_name} ") as caught,
        lost_workers_explained(TrainConfig()),
    ):
        raise said

    assert signal_name in caught.value.hint
    assert caught.value.__cause__ is said


def test_the_users_transform_draws_from_the_samples_seed() -> None:
    from stages.train.transform import open_transform

    change = open_transform("tests.test_train_options:inverted")
    crop, labels = np.random.default_rng(0).random((3, 8, 8), np.float32), np.arange(64, dtype=np.uint8).reshape(8, 8)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    outcomes = [change(crop, labels, seed) for seed in (1, 1, 2, 3, 4, 5)]

    assert np.array_equal(outcomes[0][0], outcomes[1][0])
    assert len({image.tobytes() for image, _ in outcomes}) > 1
    assert {mask.dtype for _, mask in outcomes} == {np.dtype(np.uint8)}
    assert torch.equal(torch.get_rng_state(), before)
