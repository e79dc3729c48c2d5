"""What TensorBoard is told beside loss and mIoU: the learning rate, the IoU of each class, a few validation frames.

It looks on: it draws no random number, changes no weight, and leaves nothing in a resume point.
"""

from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from segpipe import draw
from stages.train.accuracy import shot_of
from stages.train.learner import LOOKS_EVERY, Learner
from stages.train.pictures import views_of

_FRAMES = 3


class Board(Callback):
    """Writes to the trainer's own log, in the first process. The frames are the first of the validation split."""

    def __init__(self, palette: draw.Palette) -> None:
        self._palette = palette

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step % LOOKS_EVERY == 0 or trainer.is_last_batch:
            rate = float(trainer.optimizers[0].param_groups[0]["lr"])
            _log_of(trainer).log_metrics({"learning_rate": rate}, trainer.global_step)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if batch_idx >= _FRAMES or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Learner)
        frame, labels, _ = batch
        shot = shot_of(f"frame {batch_idx + 1}", frame, labels, outputs["answer"])
        picture = np.concatenate(views_of(shot, pl_module.contract, self._palette), 1)
        writer: Any = _log_of(trainer).experiment
        writer.add_image(f"val/{shot.name}: label, network, wrong", picture, trainer.global_step, dataformats="HWC")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Learner)
        _log_of(trainer).log_metrics(pl_module.task.curves(pl_module.validated), trainer.global_step)


def _log_of(trainer: Trainer) -> TensorBoardLogger:
    assert isinstance(trainer.logger, TensorBoardLogger)
    return trainer.logger
