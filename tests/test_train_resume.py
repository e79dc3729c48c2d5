"""Training goes on after a stop and ends with the same bytes, and stops in plain words when it cannot go on."""

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from segpipe.errors import TrainingError
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.storage import sha256_of
from stages.config.file import load_config
from stages.models import build_network
from stages.pipeline import Selection, run_stages
from stages.train.contract import contract_of
from stages.train.learner import Learner, TrainingPlan, step_seed
from tests.old_runs import unpack
from tests.tiny import tiny_config
from tests.waits import Waits

CHECKPOINT = "model.safetensors"
SUM_TOLERANCE = 1e-6  # the same sums in another order
TRAIN = Selection(last="train")
WAYS = {
    "plain": (),
    "ema, in workers": ("train.average=ema", "train.workers=2"),
    "swa, accumulated, patient": (
        "train.average=swa",
        "train.swa_share=0.6",
        "train.accumulate=2",
        "train.clip_norm=1.0",
        "train.patience=3",
        "train.schedule=cosine",
        "train.warmup_epochs=1",
    ),
}


def stop_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt training once the resume point of this epoch is written."""
    from stages.train.resume import KeepResumePoint

    real = KeepResumePoint.keep

    def keep_then_stop(self: KeepResumePoint, trainer: object) -> None:
        real(self, trainer)  # type: ignore[arg-type]
        if trainer.current_epoch + 1 == epochs:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    monkeypatch.setattr(KeepResumePoint, "keep", keep_then_stop)


@pytest.mark.parametrize("way", WAYS)
def test_training_resumes_to_the_same_bytes(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped by an error after the second epoch was kept, then continued in place."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    wanted = run_stages(whole, tiny_config(whole, *WAYS[way]), whole, TRAIN).record("train").outputs
    config = tiny_config(stopped, *WAYS[way])

    stop_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_stages(stopped, config, stopped, TRAIN)
    monkeypatch.undo()
    assert list((stopped / "train").glob("*.partial/resume/epoch-00002.*.ckpt"))
    caplog.set_level(logging.INFO)
    caplog.clear()
    run_stages(stopped, config, stopped, TRAIN)

    epochs = [record.message.partition(",")[0] for record in caplog.records if "train: epoch" in record.message]
    assert epochs == ["train: epoch 3 of 3"], "finished epochs are not trained again"
    assert RunDirectory(stopped).record("train").outputs == wanted, "weights, history and pictures alike"


@pytest.mark.parametrize("average", ["none", "ema", "swa"])
def test_the_average_of_the_steps_is_what_is_kept(average: str, tmp_path: Path) -> None:
    """Against weights noted after every step: the last, their moving mean, the mean of half of them."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    steps: list[np.ndarray] = []
    hook = register_optimizer_step_post_hook(lambda optimiser, *_: steps.append(learned(optimiser)))
    try:
        config = tiny_config(
            tmp_path, f"train.average={average}", "train.ema_decay=0.7", "train.swa_share=0.5", "train.epochs=1"
        )
        run = run_stages(tmp_path, config, tmp_path, TRAIN)
    finally:
        hook.remove()
    names = [name for name, _ in build_network(config.model, 3, 4).named_parameters()]
    saved = load(run.artifact_bytes("train", CHECKPOINT))
    kept = np.concatenate([saved[name].ravel() for name in names])

    moving = steps[0]
    for weights in steps[1:]:
        moving = 0.7 * moving + 0.3 * weights
    wanted = {"none": steps[-1], "ema": moving, "swa": np.mean(steps[len(steps) // 2 :], axis=0)}
    near = {name for name, values in wanted.items() if np.abs(kept - values).max() < SUM_TOLERANCE}
    assert near == {average}


def learned(optimiser: Any) -> np.ndarray:
    """All that it has updated, in the network's order."""
    return np.concatenate(
        [weights.detach().numpy().ravel() for group in optimiser.param_groups for weights in group["params"]]
    )


def test_a_torn_resume_point_is_passed_over(tmp_path: Path) -> None:
    from stages.train.resume import newest_resume_point

    (tmp_path / "old").write_bytes(b"good")
    good = tmp_path / f"epoch-00001.seeds2.{sha256_of(tmp_path / 'old')[:16]}.ckpt"
    (tmp_path / "old").rename(good)
    (tmp_path / f"epoch-00002.seeds2.{'0' * 16}.ckpt").write_bytes(b"torn")

    assert newest_resume_point(tmp_path) == good


def test_a_half_done_training_of_the_old_numbering_starts_over_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half = unpack("half-done", tmp_path)
    (old,) = half.glob("train/*.partial/resume/*.ckpt")
    (old.parent / "learning_rate.txt").write_text("1e-3")
    caplog.set_level(logging.INFO)

    run_stages(half, load_config(half, ()), half, TRAIN)

    said = [message for message in caplog.messages if message.startswith("train: ")]
    assert "train: starts over: an older segpipe left it half-done, with random numbers of another kind" in said
    epochs = [message.partition(",")[0] for message in said if message.startswith("train: epoch")]
    assert epochs == [f"train: epoch {number} of 3" for number in (1, 2, 3)]


def test_no_two_steps_draw_the_same_random_numbers() -> None:
    """Neither within a training nor in another seed's, epoch's, step's or process's."""
    steps = itertools.product(range(4), range(4), (0, 1, 2, 1_000_003), range(3))
    seeds = [step_seed(*step) for step in steps]

    assert len(set(seeds)) == len(seeds)


def test_a_training_step_never_waits_for_the_gpu(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "train.class_weights=[1,2,1,1,1]")
    network = build_network(config.model, 3, 5)
    learner = Learner(
        network, contract_of(config, network), config.train, TrainingPlan(4, (1.0, 2.0, 1.0, 1.0, 1.0), str)
    )
    batch = torch.rand(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.long), torch.arange(2)
    with Waits() as waits:
        learner.training_step(batch, 0)

    assert waits.asked == []


def test_a_loss_that_is_no_number_names_its_frames_and_keeps_the_last_epoch(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "model.name=tests.test_train_resume:diverging", "model.options={}")

    with pytest.raises(TrainingError) as caught:
        run_stages(tmp_path, config, tmp_path, TRAIN)
    assert "the loss became nan in epoch 2, step 1, on the frames shapes-train-" in caught.value.message
    assert "the network of epoch 1 is kept" in caught.value.message
    assert "train.learning_rate" in caught.value.hint
    assert list((tmp_path / "train").glob("*.partial/resume/epoch-00001.*.ckpt"))


def test_a_full_gpu_says_what_to_lower(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "model.name=tests.test_train_resume:too_large", "model.options={}")

    with pytest.raises(TrainingError, match=r"memory is full with train\.batch_size 4 .*lower train\.batch_size"):
        run_stages(tmp_path, config, tmp_path, TRAIN)


def diverging(channels: int, classes: int) -> object:
    """A network that gives NaN from its fifth training step on: the second epoch's first."""
    import torch
    from torch import Tensor, nn

    class Diverging(nn.Sequential):
        steps = 0

        def forward(self, image: Tensor) -> Tensor:
            self.steps += self.training
            scores: Tensor = self[0](image)
            return scores * torch.nan if self.steps > 4 else scores

    return Diverging(nn.Conv2d(channels, classes, 1))


def too_large(channels: int, classes: int) -> object:
    """A network for which no GPU is large enough."""
    import torch
    from torch import Tensor, nn

    class TooLarge(nn.Sequential):
        def forward(self, image: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 99 GiB.")

    return TooLarge(nn.Conv2d(channels, classes, 1))
