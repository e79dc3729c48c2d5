"""Lightning's Trainer for a config: callbacks, precision, processes, and the words for a full GPU."""

import logging
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.tuner.tuning import Tuner

from segpipe.errors import SegpipeError, TrainingError
from segpipe.rundir.storage import write_atomically
from stages.config.root import TrainConfig
from stages.train.interrupts import Interrupts
from stages.train.learner import LOOKS_EVERY, Learner
from stages.train.optimisation import averaging_of
from stages.train.resume import LEARNING_RATE, KeepResumePoint, ResumePoints

_PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


_LOST_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) ([^.]*)")


@dataclass(frozen=True)
class Folders:
    """Where a training writes while it runs."""

    resume: Path
    sheet: Path
    logs: Path
    title: str = "train"
    """Of the training, in what is logged."""

    def of(self, title: str) -> "Folders":
        """Those of one of several trainings after another."""
        return Folders(self.resume / title, self.sheet, self.logs / title, title)


class _Patience(EarlyStopping):
    """Lightning's early stopping, which also remembers over a resume that it had stopped."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.stopped_epoch > 0


def trainer_of(
    config: TrainConfig, points: ResumePoints, folders: Folders, steps: int, watching: Sequence[Callback]
) -> Trainer:
    """In this order the callbacks watch, keep the validated weights, average, and write what all of them know."""
    callbacks: list[Callback] = [*watching, points, *averaging_of(config, steps)]
    if config.patience:
        callbacks.append(_Patience(points.headline, mode="max", patience=config.patience, check_finite=False))
    bar = sys.stderr.isatty()
    if bar:
        callbacks.append(RichProgressBar(leave=False, console_kwargs={"stderr": True}))
    several = config.devices * config.nodes > 1
    return Trainer(
        default_root_dir=folders.resume,
        max_epochs=config.epochs,
        accelerator="auto",
        devices=config.devices,
        num_nodes=config.nodes,
        strategy="ddp" if several else "auto",
        precision=_PRECISIONS[config.precision],
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip_norm or None,
        sync_batchnorm=several and torch.cuda.is_available(),
        logger=TensorBoardLogger(folders.logs, name="", version="") if config.tensorboard else False,
        log_every_n_steps=LOOKS_EVERY,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=bar,
        callbacks=[*callbacks, KeepResumePoint(folders.resume)],
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
    )


def find_learning_rate(config: TrainConfig, learner: Learner, data: Any, folder: Path, interrupts: Interrupts) -> None:
    """Lightning's finder, once a training: what it found is kept for a resume."""
    found = folder / LEARNING_RATE
    if not found.exists():
        folder.mkdir(parents=True, exist_ok=True)
        trainer = Trainer(
            default_root_dir=folder,
            max_epochs=-1,
            devices=1,
            precision=_PRECISIONS[config.precision],
            gradient_clip_val=config.clip_norm or None,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            limit_val_batches=0,
            reload_dataloaders_every_n_epochs=1,
            callbacks=[interrupts],
        )
        finder = Tuner(trainer).lr_find(learner, data, num_training=60, update_attr=False)
        suggestion = finder.suggestion() if finder is not None else None
        if suggestion is None:
            raise TrainingError(
                "the learning-rate finder saw no falling loss", hint="set train.learning_rate to a number"
            )
        write_atomically(found, f"{suggestion:.3e}\n".encode())
        learner.forget_losses()
    learner.learning_rate = float(found.read_text())


@contextmanager
def full_memory_explained(config: TrainConfig) -> Iterator[None]:
    """CUDA out of memory becomes a known error."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = str(error).partition(". ")[0]
        raise TrainingError(
            f"the GPU's memory is full with train.batch_size {config.batch_size} ({first})",
            hint="lower train.batch_size (and raise train.accumulate), train.crop_height and crop_width, or "
            'set train.precision = "bf16"',
        ) from error


@contextmanager
def lost_workers_explained(config: TrainConfig) -> Iterator[None]:
    """A loader worker that somebody ended becomes a known error. torch tells it from wherever training is just then."""
    try:
        yield
    except RuntimeError as error:
        lost = _LOST_WORKER.search(str(error))
        if isinstance(error, SegpipeError) or lost is None:
            raise
        raise TrainingError(
            f"a loader worker {lost[1].strip()} (train.workers is {config.workers})",
            hint="Killed mostly means that memory is full, Bus error that /dev/shm is: lower train.workers (0 needs "
            "neither); Terminated, that somebody ended it. Run the same command to go on from the last epoch",
        ) from error


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Drop Lightning's banners and advice; errors pass."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        yield
