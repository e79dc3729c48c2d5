"""What Lightning trains: the network, its loss, its optimiser, and its metrics over whole frames."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix

from segpipe import metrics
from segpipe.contract import Contract
from segpipe.errors import TrainingError
from stages import reference
from stages.config import TrainConfig
from stages.losses import SegmentationLoss
from stages.models.parts import freeze_encoder
from stages.train.dataset import Batch
from stages.train.optimisation import optimiser_of, schedule_of


@dataclass(frozen=True)
class Plan:
    """What a training needs to know besides its config."""

    steps: int
    """Of the optimiser, in all epochs."""
    class_weights: tuple[float, ...] | None
    name: Callable[[int], str]
    """Of a training frame, for messages."""


class Learner(LightningModule):
    """The loss at the labels' size; accuracy by the contract's definition, at the source size."""

    def __init__(self, network: nn.Module, contract: Contract, config: TrainConfig, plan: Plan) -> None:
        super().__init__()
        self.network = network
        self.contract = contract
        self.learning_rate = 1e-3 if config.learning_rate == "find" else config.learning_rate
        self.losses: list[float] = []
        self.validated: metrics.Confusion = np.zeros((0, 0), np.int64)
        self.confusion = MulticlassConfusionMatrix(len(contract.classes), ignore_index=contract.ignore_index)
        self._config, self._plan = config, plan
        self._loss = SegmentationLoss(config.loss, contract.ignore_index, plan.class_weights, self._over_processes)
        self._batch_began = time.monotonic()
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        if self._config.encoder_factor == 0:
            freeze_encoder(self.network)  # Lightning has just put every module into training mode

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Random layers draw the same numbers whether or not training was interrupted before."""
        step = self.trainer.current_epoch * 1_000_003 + batch_idx
        torch.manual_seed(self._config.seed * 1_000_003 + step + 7919 * self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels, indices = batch
        answer = self.network(images.contiguous(memory_format=torch.channels_last))
        outputs = answer if isinstance(answer, tuple) else (answer,)
        losses = [self._loss(_upsampled(output, labels), labels) for output in outputs]
        loss: Tensor = losses[0]
        for auxiliary in losses[1:]:
            loss = loss + self._config.auxiliary_weight * auxiliary
        shared = float(self._over_processes(loss.detach()))
        if not math.isfinite(shared):
            raise self._diverged(shared, batch_idx, indices)
        self.losses.append(shared)
        self.log("loss", shared, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Images a second, of this process."""
        now = time.monotonic()
        self.log("images/s", len(batch[0]) / (now - self._batch_began), prog_bar=True)
        self._batch_began = now

    def validation_step(self, batch: tuple[NDArray[Any], NDArray[Any], int], batch_idx: int) -> None:
        self.judge(*batch[:2])

    def on_validation_epoch_end(self) -> None:
        """mIoU over the data set, not a mean of images."""
        self.validated = self.harvest()
        self.log("val_miou", metrics.scores(self.validated).mean_iou, prog_bar=True)

    def judge(self, frame: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
        """Count one frame's pixels, in full precision, and return its mask."""
        with torch.autocast(self.device.type, enabled=False):
            mask = reference.segment(self.network, frame, self.contract)
        predicted, truth = (torch.from_numpy(v.astype("int64")).to(self.device) for v in (mask, labels))
        self.confusion.update(predicted, truth)
        return mask

    def harvest(self) -> metrics.Confusion:
        """The confusion matrix of all frames judged since the last call, by all processes."""
        matrix: metrics.Confusion = self.confusion.compute().cpu().numpy()
        self.confusion.reset()
        return matrix

    def configure_optimizers(self) -> Any:
        optimiser = optimiser_of(self.network, self._config, self.learning_rate)
        schedule = schedule_of(optimiser, self._config, self._plan.steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _over_processes(self, value: Tensor) -> Tensor:
        """Mean over all processes; every process must ask."""
        shared: Tensor = self.trainer.strategy.reduce(value, reduce_op="mean")
        return shared

    def _diverged(self, loss: float, batch_idx: int, indices: Tensor) -> TrainingError:
        names = ", ".join(self._plan.name(int(index)) for index in indices)
        epoch = self.trainer.current_epoch
        return TrainingError(
            f"the loss became {loss} in epoch {epoch + 1}, step {batch_idx + 1}, on the frames {names}; "
            f"the network of epoch {epoch} is kept",
            hint="lower train.learning_rate, or look at these frames",
        )


def _upsampled(scores: Tensor, labels: Tensor) -> Tensor:
    return F.interpolate(scores.float(), labels.shape[1:], mode="bilinear", align_corners=False)
