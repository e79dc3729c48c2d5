"""Semantic segmentation, offline: targets, loss, the definition in PyTorch, the confusion matrix and its mIoU."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe import metrics
from segpipe.contract.schema import Placement, SemanticContract
from stages.config.losses import Loss, ThingWeights
from stages.models import reference
from stages.tasks.losses import Averaging, SegmentationLoss


class ConfusionMeter(nn.Module):
    """Pixels by label and prediction."""

    def __init__(self, contract: SemanticContract) -> None:
        super().__init__()
        from torchmetrics.classification import MulticlassConfusionMatrix  # with it come SciPy, SymPy and 300 MB

        self.confusion = MulticlassConfusionMatrix(len(contract.classes), ignore_index=contract.ignore_index)

    def add(self, answer: NDArray[Any], labels: NDArray[Any]) -> None:
        """Count one frame's pixels."""
        where = self.confusion.device
        predicted, truth = (torch.from_numpy(values.astype("int64")).to(where) for values in (answer, labels))
        self.confusion.update(predicted, truth)

    def harvest(self) -> metrics.Confusion:
        """The confusion matrix of all frames since the last call, by all processes."""
        matrix: metrics.Confusion = self.confusion.compute().cpu().numpy()
        self.confusion.reset()
        return matrix

    def reset(self) -> None:
        """Forget what was counted."""
        self.confusion.reset()


class OfflineSemantic:
    """Masks by a contract."""

    headline = "val_miou"
    fp32_modules: Mapping[str, str] = {}

    def __init__(self, contract: SemanticContract) -> None:
        self.gives_labels = contract.output_kind == "labels"
        self._contract = contract

    def targets(self, labels: NDArray[Any]) -> Tensor:
        """Class numbers, HxW."""
        return torch.from_numpy(labels.astype(np.int64))

    def loss(
        self,
        terms: Sequence[Loss],
        class_weights: Sequence[float] | None,
        averaging: Averaging,
        things: ThingWeights | None = None,
    ) -> SegmentationLoss:
        """A weighted sum of terms over the labelled pixels. There are no things."""
        return SegmentationLoss(terms, self._contract.ignore_index, class_weights, averaging)

    def at_targets(self, output: Tensor, targets: Tensor) -> Tensor:
        """Scores at the labels' size."""
        return F.interpolate(output.float(), targets.shape[1:], mode="bilinear", align_corners=False)

    def decide(self, output: Tensor, placement: Placement) -> NDArray[Any]:
        """1xCxhxw scores to an HxW mask of the source's size."""
        return reference.decide(reference.upsample(output, placement), self._contract)

    def segment(self, network: nn.Module, frame: NDArray[Any]) -> NDArray[Any]:
        """Frame to mask."""
        return reference.segment(network, frame, self._contract)

    def meter(self) -> ConfusionMeter:
        """A confusion matrix."""
        return ConfusionMeter(self._contract)

    def headline_of(self, counted: metrics.Confusion) -> float:
        """The mean IoU over the data set, not a mean of images."""
        return metrics.scores(counted, self._contract.unscored_numbers).mean_iou

    def kept(self, counted: metrics.Confusion) -> list[list[int]]:
        """The confusion matrix."""
        rows: list[list[int]] = counted.tolist()
        return rows

    def told(self, counted: metrics.Confusion) -> str:
        """The mean IoU, and that of all classes where some are not scored."""
        of_all = metrics.scores(counted).mean_iou_of_all
        return metrics.mean_in_words(self.headline_of(counted), of_all, self._contract.unscored)

    def curves(self, counted: metrics.Confusion) -> dict[str, float]:
        """The IoU of each class that occurs."""
        named = zip(self._contract.classes, metrics.scores(counted).iou.tolist(), strict=True)
        return {f"val_iou/{name}": iou for name, iou in named if not math.isnan(iou)}

    def class_numbers(self, targets: Tensor) -> NDArray[Any]:
        """As they are."""
        return targets.numpy().astype(self._contract.mask_dtype)
