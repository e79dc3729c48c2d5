"""What Lightning trains: the network, its loss, its optimiser, and its metrics over whole frames."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix

from segpipe import metrics
from segpipe.contract import Contract
from stages import reference
from stages.config import TrainConfig

Batch = tuple[Tensor, Tensor]


class Learner(LightningModule):
    """Cross-entropy at the labels' size; accuracy by the contract's definition, at the source size."""

    def __init__(self, network: nn.Module, contract: Contract, config: TrainConfig, steps: int) -> None:
        super().__init__()
        self.network = network
        self.contract = contract
        self._config = config
        self._steps = steps
        classes = len(contract.classes)
        self.confusion = MulticlassConfusionMatrix(classes, ignore_index=contract.ignore_index)
        self.losses: list[float] = []

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Random layers draw the same numbers whether or not training was interrupted before."""
        torch.manual_seed(self._config.seed * 1_000_003 + self.global_step)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        scores = self.network(images.contiguous(memory_format=torch.channels_last))
        upsampled = F.interpolate(scores, labels.shape[1:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(upsampled, labels, ignore_index=self.contract.ignore_index)
        self.losses.append(float(loss.detach()))
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[NDArray[Any], NDArray[Any]], batch_idx: int) -> None:
        self.judge(*batch)

    def on_validation_epoch_end(self) -> None:
        """mIoU over the data set, not a mean of images."""
        self.log("val_miou", self.harvest().mean_iou, prog_bar=True)

    def judge(self, frame: NDArray[Any], labels: NDArray[Any]) -> None:
        """Count one frame's pixels."""
        mask = reference.segment(self.network, frame, self.contract)
        as_tensors = (torch.from_numpy(values.astype("int64")) for values in (mask, labels))
        self.confusion.update(*as_tensors)

    def harvest(self) -> metrics.Scores:
        """Figures of all frames judged since the last call."""
        matrix = self.confusion.compute().numpy()
        self.confusion.reset()
        return metrics.scores(matrix)

    def configure_optimizers(self) -> Any:
        config = self._config
        optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=self._steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
