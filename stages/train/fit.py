"""The core of training: config and data -> a trained network with its figures. Knows no manifest."""

import csv
import io
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader

from segpipe.contract.schema import AnyContract, Contract
from segpipe.cores import usable_cores
from segpipe.metrics import Confusion, scores
from stages.config.draft import draft_contract
from stages.config.root import Config, TrainConfig
from stages.data import Split, labels_of, open_split
from stages.data.check import class_weights, val_serves
from stages.models import build_for, checkpoint
from stages.models.checkpoint import Trained
from stages.models.pretrained import MatchReport, load_pretrained
from stages.train import pictures
from stages.train.accuracy import Accuracy, accuracy_on, test_figures, things_figures, unscored_figures
from stages.train.board import Board
from stages.train.contract import contract_of, refuse_broken_promises, refuse_crops_off_the_multiple
from stages.train.dataset import Process, batches_an_epoch, frame_loader, training_loader
from stages.train.distillation import Guidance, guided_by, open_guidance
from stages.train.interrupts import Interrupts
from stages.train.learner import Learner, TrainingPlan
from stages.train.processes import rank
from stages.train.resume import ResumePoints, drop_other_numberings, newest_resume_point
from stages.train.teachers import TeacherFile, teacher_file
from stages.train.trainer import (
    Folders,
    find_learning_rate,
    full_memory_explained,
    lost_workers_explained,
    quiet_lightning,
    trainer_of,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """What is trained, and on what."""

    network: nn.Module
    contract: AnyContract
    train: Split
    val: Split
    palette: tuple[tuple[int, int, int], ...]
    class_weights: tuple[float, ...] | None = None
    guidance: Guidance | None = None
    """A teacher, where there is one."""


@dataclass(frozen=True)
class Learned:
    """What every process has when training has ended."""

    learner: Learner
    points: ResumePoints
    palette: tuple[tuple[int, int, int], ...]
    pretrained: MatchReport | None
    teacher: TeacherFile | None
    guidance: Guidance | None
    pruned: bool = False


@dataclass(frozen=True)
class Outcome:
    """A trained network and what is known about it."""

    trained: Trained
    figures: dict[str, Any]
    files: dict[str, bytes]


def fit(config: Config, base: Path, folders: Folders) -> Outcome:
    """Train to the end, from the newest resume point if there is one, then measure on the test split."""
    return outcome_of(learn(config, base, folders), config, base)


def outcome_of(learned: Learned, config: Config, base: Path) -> Outcome:
    """The best weights of a training, and what they do on the test split."""
    found = tested(learned, config, base)
    chosen, val = _chosen_by(learned, config, base)
    learner, best = learned.learner, learned.points.best
    trained = Trained(learner.network.cpu(), learner.contract, learned.palette, learned.pruned)
    figures = {
        **chosen,
        "best_epoch": best["epoch"],
        "epochs": len(learned.points.history),
        **test_figures(found.matrix, learner.contract),
        **things_figures(found),
        **unscored_figures(val, learner.contract),
    }
    if val_serves(config, base, "test"):
        figures["test_split"] = "val"
    if learned.pretrained is not None:
        figures["pretrained"] = learned.pretrained.as_dict()
    figures |= _taught(learned, config, base)
    return Outcome(trained, figures, _files(learned, trained, (val, found), config))


def _chosen_by(learned: Learned, config: Config, base: Path) -> tuple[dict[str, Any], Confusion]:
    """Figures of the weights that are kept on the split that chose them, and its confusion matrix: of things, which
    are chosen by average precision, the matrix is counted now."""
    best, contract = learned.points.best, learned.learner.contract
    if isinstance(contract, Contract):
        return {"val_miou": best["val_miou"]}, np.array(best["confusion"])
    with lost_workers_explained(config.train):
        split = open_split(config, base, "val")
        found = accuracy_on(split, learned.learner.segment, contract, config.train.workers)
    miou = scores(found.matrix, contract.unscored_numbers).mean_iou
    return {"val_ap": best["val_ap"], "val_miou": round(miou, 6)}, found.matrix


def best_of(learned: Learned, config: Config) -> bytes:
    """Its best weights as a checkpoint."""
    network = learned.learner.network.cpu()
    network.load_state_dict(learned.points.best["weights"])
    trained = Trained(network, learned.learner.contract, learned.palette, learned.pruned)
    return checkpoint.to_bytes(trained, config.model)


def learn(
    config: Config, base: Path, folders: Folders, begin: Trained | None = None, teacher_of_own: Trained | None = None
) -> Learned:
    """The part of a training that all its processes take part in; from a network that is trained already, or anew."""
    torch.set_num_threads(config.train.threads or usable_cores())
    torch.manual_seed(config.train.seed)
    labels = labels_of(config)
    network, pretrained = (begin.network, None) if begin else _new_network(config, base)
    contract = contract_of(config, network)
    refuse_crops_off_the_multiple(config, contract)
    with full_memory_explained(config.train):
        refuse_broken_promises(network, config, contract)
    checkpoint.refuse_unkept_state(network, config.model.name)
    train, val = (open_split(config, base, split) for split in ("train", "val"))
    teacher = teacher_file(config, base)
    guidance = None
    if isinstance(contract, Contract):
        guidance = None if teacher is None else open_guidance(teacher, config, contract)
        if teacher_of_own is not None:
            guidance = guided_by(teacher_of_own, config, contract)
    subject = Subject(network, contract, train, val, labels.palette, class_weights(config, base), guidance)
    learner, points = learn_subject(subject, config, folders)
    return Learned(learner, points, labels.palette, pretrained, teacher, guidance, begin is not None and begin.pruned)


def learn_subject(subject: Subject, config: Config, folders: Folders) -> tuple[Learner, ResumePoints]:
    """Train to the end, from the newest resume point if there is one."""
    data = _Data(subject, config.train)
    batches = batches_an_epoch(len(subject.train), config.train)
    steps = config.train.epochs * math.ceil(batches / config.train.accumulate)
    subject.network.to(memory_format=torch.channels_last)
    plan = TrainingPlan(steps, subject.class_weights, subject.train.name, subject.guidance)
    learner = Learner(subject.network, subject.contract, config.train, plan)
    if config.train.compile:
        subject.network.compile()
    points = ResumePoints(folders.resume, config.train.epochs, learner.task.headline, folders.title)
    if rank() == 0:
        pictures.write_sheet(folders.sheet, subject.train, subject.contract, config, subject.palette)
        drop_other_numberings(folders.resume)
    newest = newest_resume_point(folders.resume)
    interrupts = Interrupts()
    with (
        interrupts.watching(),
        quiet_lightning(),
        full_memory_explained(config.train),
        lost_workers_explained(config.train),
    ):
        board = [Board(subject.palette)] if config.train.tensorboard else []
        trainer = trainer_of(config.train, points, folders, steps, [interrupts, *board])
        if config.train.learning_rate == "find":
            find_learning_rate(config.train, learner, data, folders.resume, interrupts)
        trainer.fit(learner, data, ckpt_path=newest, weights_only=True)
    return learner, points


def _new_network(config: Config, base: Path) -> tuple[nn.Module, MatchReport | None]:
    """With random weights, or published ones."""
    network = build_for(config.model, draft_contract(config))
    return network, load_pretrained(network, config.model, base, config.input.channels)


class _Data(LightningDataModule):
    """Loaders; the training loader is made anew each epoch, from the epoch's number alone."""

    def __init__(self, subject: Subject, config: TrainConfig) -> None:
        super().__init__()
        self._subject, self._config = subject, config

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        progress: Any = self.trainer.fit_loop.epoch_progress.current
        train, contract = self._subject.train, self._subject.contract
        return training_loader(train, contract, self._config, progress.processed, self._process())

    def val_dataloader(self) -> DataLoader[Any]:
        return frame_loader(self._subject.val, self._config.workers, self._process())

    def _process(self) -> Process:
        assert self.trainer is not None
        return Process(self.trainer.global_rank, self.trainer.world_size)


def tested(learned: Learned, config: Config, base: Path) -> Accuracy:
    """On the held-out split, with the weights that are kept."""
    learner = learned.learner
    learner.network.load_state_dict(learned.points.best["weights"])
    learner.network.eval()
    learner.to("cuda" if torch.cuda.is_available() else "cpu")
    with lost_workers_explained(config.train):
        return accuracy_on(open_split(config, base, "test"), learner.segment, learner.contract, config.train.workers)


def _taught(learned: Learned, config: Config, base: Path) -> dict[str, Any]:
    """Who taught, and how good the teacher is on the frames by which epochs are chosen; nothing without one."""
    if learned.guidance is None or learned.teacher is None or config.compress.distil is None:
        return {}
    teacher, contract = learned.guidance.teacher, learned.learner.contract
    with lost_workers_explained(config.train):
        found = accuracy_on(open_split(config, base, "val"), teacher.segment, contract, config.train.workers)
    miou = scores(found.matrix, contract.unscored_numbers).mean_iou
    if miou <= learned.points.best["val_miou"]:
        _log.warning("train: the teacher's val mIoU is %.4f, no better than this network's: learn from another", miou)
    return {"distilled": {"teacher": learned.teacher.name, "kind": config.compress.distil.kind,
                          "teacher_sha256": learned.teacher.sha256, "teacher_val_miou": round(miou, 6)}}  # fmt: skip


def _files(learned: Learned, trained: Trained, counted: tuple[Confusion, Accuracy], config: Config) -> dict[str, bytes]:
    """The stage's outputs by name. `counted`: on val and on test."""
    val, tested = counted
    history, classes = learned.points.history, trained.contract.classes
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(history[0]))
    writer.writeheader()
    writer.writerows(history)
    matrices = {"classes": classes, "val": val.tolist(), "test": tested.matrix.tolist()}
    return {
        checkpoint.FILE_NAME: checkpoint.to_bytes(trained, config.model),
        "history.csv": table.getvalue().encode(),
        "confusion.json": json.dumps(matrices).encode(),
        "confusion.png": pictures.confusion_png(tested.matrix, classes),
        "curves.png": pictures.curves_png(history, learned.points.headline),
        "best.png": pictures.overlays_png(tested.gallery.best, trained),
        "worst.png": pictures.overlays_png(tested.gallery.worst, trained),
    }
