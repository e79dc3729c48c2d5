"""The core of training: config and data -> a trained network with its figures. Knows no manifest."""

import csv
import io
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from torch import nn
from torch.utils.data import DataLoader

from segpipe.contract import Contract
from segpipe.errors import ConfigError
from segpipe.metrics import Scores
from stages import checkpoint
from stages.checkpoint import Trained
from stages.config import Config
from stages.data import Labels, labels_of, open_split
from stages.models import build_network
from stages.train.dataset import frame_loader, training_loader
from stages.train.learner import Learner
from stages.train.resume import ResumePoints, newest_resume_point


@dataclass(frozen=True)
class Outcome:
    """A trained network and what is known about it."""

    trained: Trained
    figures: dict[str, Any]
    history: list[dict[str, float]]


def fit(config: Config, base: Path, resume: Path) -> Outcome:
    """Train to the end, from the newest resume point in `resume` if there is one."""
    torch.set_num_threads(config.train.threads or os.cpu_count() or 1)
    torch.manual_seed(config.train.seed)
    labels = labels_of(config)
    network = build_network(config.model, config.input.channels, len(labels.classes))
    contract = contract_of(config, labels, network)
    data = _Data(config, base, contract)
    steps = config.train.epochs * max(1, data.frames // config.train.batch_size)
    network.to(memory_format=torch.channels_last)
    learner = Learner(network, contract, config.train, steps)
    points = ResumePoints(resume, config.train.epochs)
    with _quiet_lightning():
        trainer = _trainer(config, points)
        trainer.fit(learner, data, ckpt_path=newest_resume_point(resume), weights_only=True)
    network.load_state_dict(points.best["weights"])
    network.eval()
    figures = {"val_miou": points.best["val_miou"], "best_epoch": points.best["epoch"], **_test(learner, config, base)}
    return Outcome(Trained(network, contract, labels.palette), figures, points.history)


def outcome_files(outcome: Outcome, config: Config) -> dict[str, bytes]:
    """The stage's outputs by name."""
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(outcome.history[0]))
    writer.writeheader()
    writer.writerows(outcome.history)
    return {
        checkpoint.FILE_NAME: checkpoint.to_bytes(outcome.trained, config.model),
        "history.csv": table.getvalue().encode(),
    }


def contract_of(config: Config, labels: Labels, network: nn.Module) -> Contract:
    """The contract that the config, the data and the network make together."""
    frames = config.input
    size = (frames.height, frames.width) if frames.height and frames.width else None
    multiple, stride = int(getattr(network, "size_multiple", 1)), int(getattr(network, "stride", 1))
    if size and (size[0] % multiple or size[1] % multiple):
        fitting = " x ".join(str(max(multiple, round(side / multiple) * multiple)) for side in size)
        raise ConfigError(
            f"[input] {size[0]} x {size[1]}: {config.model.name} takes multiples of {multiple}", hint=f"use {fitting}"
        )
    return Contract(
        channels=frames.channels,
        channel_order=frames.channel_order,
        dtype=frames.dtype,
        value_range=frames.value_range,
        mean=frames.mean,
        std=frames.std,
        fit=frames.fit,
        network_size=size,
        size_multiple=multiple,
        classes=labels.classes,
        ignore_index=labels.ignore_index,
        output_stride=stride,
    )


class _Data(LightningDataModule):
    """Loaders; the training loader is made anew each epoch, from the epoch's number alone."""

    def __init__(self, config: Config, base: Path, contract: Contract) -> None:
        super().__init__()
        self._train = open_split(config, base, "train")
        self._val = open_split(config, base, "val")
        self._contract, self._config = contract, config.train
        self.frames = len(self._train)

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        progress: Any = self.trainer.fit_loop.epoch_progress.current
        epoch = progress.processed
        return training_loader(self._train, self._contract, self._config, epoch)

    def val_dataloader(self) -> DataLoader[Any]:
        return frame_loader(self._val, self._config.workers)


def _trainer(config: Config, points: ResumePoints) -> Trainer:
    bar = [RichProgressBar(leave=False, console_kwargs={"stderr": True})] if sys.stderr.isatty() else []
    return Trainer(
        max_epochs=config.train.epochs,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=bool(bar),
        callbacks=[points, *bar],
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
    )


def _test(learner: Learner, config: Config, base: Path) -> dict[str, Any]:
    """Figures on the held-out split, with the weights that are kept."""
    learner.cpu()
    for frame, labels in frame_loader(open_split(config, base, "test"), config.train.workers):
        learner.judge(frame, labels)
    result = learner.harvest()
    return {
        "test_miou": round(result.mean_iou, 6),
        "test_pixel_accuracy": round(result.pixel_accuracy, 6),
        "test_classes": _by_class(result, learner.contract.classes),
    }


def _by_class(result: Scores, classes: tuple[str, ...]) -> dict[str, dict[str, float | None]]:
    """IoU, F1, precision and recall of each class; None for a class that the split does not hold."""
    columns = {"iou": result.iou, "f1": result.f1, "precision": result.precision, "recall": result.recall}
    return {
        name: {key: None if math.isnan(v[n]) else round(float(v[n]), 6) for key, v in columns.items()}
        for n, name in enumerate(classes)
    }


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Drop Lightning's banners and advice; errors pass."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        yield
