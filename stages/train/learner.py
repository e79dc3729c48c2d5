"""What Lightning trains: the network, its task's loss, its optimiser, and its metrics over whole frames."""

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

from segpipe.contract.schema import AnyContract
from segpipe.errors import TrainingError
from stages.config.root import TrainConfig
from stages.models.parts import freeze_encoder
from stages.tasks import offline_task_of
from stages.train.dataset import Batch
from stages.train.optimisation import optimiser_of, schedule_of

LOOKS_EVERY = 10
"""Steps after which the losses are looked at, which waits for the GPU."""


@dataclass(frozen=True)
class TrainingPlan:
    """What a training needs to know besides its config."""

    steps: int
    """Of the optimiser, in all epochs."""
    class_weights: tuple[float, ...] | None
    name: Callable[[int], str]
    """Of a training frame, for messages."""
    guidance: Callable[[Tensor, Tensor], Tensor] | None = None
    """What a teacher adds to the loss of a batch: of its crops and the network's first output."""


@dataclass(frozen=True)
class _Step:
    """One batch, whose loss may still be in the making."""

    number: int
    loss: Tensor
    indices: Tensor


class Learner(LightningModule):
    """The loss at the targets' size; accuracy by the contract's definition, at the source size."""

    def __init__(self, network: nn.Module, contract: AnyContract, config: TrainConfig, plan: TrainingPlan) -> None:
        super().__init__()
        self.network = network
        self.contract = contract
        self.task = offline_task_of(contract)
        self.learning_rate = 1e-3 if config.learning_rate == "find" else config.learning_rate
        self.losses: list[float] = []
        self._unseen: list[_Step] = []
        self.validated: Any = None
        """What the meter counted on the whole validation split, once there was one."""
        self.meter = self.task.meter()
        self._config, self._plan = config, plan
        self._loss = self.task.loss(config.loss, plan.class_weights, self._over_processes, config.things)
        self._batch_began = time.monotonic()
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        if self._config.encoder_factor == 0:
            freeze_encoder(self.network)  # Lightning has just put every module into training mode

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Random layers draw the same numbers whether or not training was interrupted before."""
        torch.manual_seed(step_seed(self._config.seed, self.trainer.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Hands the GPU its work and does not wait for it: what the loss was is looked at later."""
        images, targets, indices = batch
        answer = self.network(images.contiguous(memory_format=torch.channels_last))
        outputs = answer if isinstance(answer, tuple) else (answer,)
        losses = [self._loss(self.task.at_targets(output, targets), targets) for output in outputs]
        loss: Tensor = losses[0]
        for auxiliary in losses[1:]:
            loss = loss + self._config.auxiliary_weight * auxiliary
        if self._plan.guidance is not None:
            loss = loss + self._plan.guidance(images, outputs[0])
        self._unseen.append(_Step(batch_idx, loss.detach(), indices))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Images a second, of this process; now and then, and before an epoch is kept, the losses."""
        now = time.monotonic()
        self.log("images/s", torch.tensor(len(batch[0]) / (now - self._batch_began)), prog_bar=True)
        self._batch_began = now
        if len(self._unseen) == LOOKS_EVERY or self.trainer.is_last_batch:
            self._look_at_losses()

    def forget_losses(self) -> None:
        """Those of steps that are no part of the training, or of an epoch that is noted."""
        self.losses.clear()
        self._unseen.clear()

    def _look_at_losses(self) -> None:
        """Waits for the GPU once for several steps; raises for the first whose loss is no number."""
        steps, self._unseen = self._unseen, []
        values: list[float] = self._over_processes(torch.stack([step.loss for step in steps])).tolist()
        for step, value in zip(steps, values, strict=True):
            if not math.isfinite(value):
                raise self._diverged(value, step)
        self.losses += values
        self.log("loss", torch.tensor(values).mean(), prog_bar=True)

    def validation_step(self, batch: tuple[NDArray[Any], NDArray[Any], int], batch_idx: int) -> dict[str, Any]:
        return {"answer": self.judge(*batch[:2])}

    def on_validation_epoch_end(self) -> None:
        """The task's headline, over the data set."""
        self.validated = self.meter.harvest()
        self.log(self.task.headline, self.task.headline_of(self.validated), prog_bar=True)

    def judge(self, frame: NDArray[Any], labels: NDArray[Any]) -> Any:
        """Count one frame, and return its answer."""
        answer = self.segment(frame)
        self.meter.add(answer, labels)
        return answer

    def segment(self, frame: NDArray[Any]) -> Any:
        """One frame's answer, in full precision."""
        with torch.autocast(self.device.type, enabled=False):
            return self.task.segment(self.network, frame)

    def configure_optimizers(self) -> Any:
        optimiser = optimiser_of(self.network, self._config, self.learning_rate)
        schedule = schedule_of(optimiser, self._config, self._plan.steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _over_processes(self, value: Tensor) -> Tensor:
        """Mean over all processes; every process must ask."""
        if not torch.distributed.is_initialized():
            return value
        shared = value.clone()  # the caller still needs its own
        torch.distributed.all_reduce(shared)  # in the GPU's own order; Lightning's would wait for it
        return shared / torch.distributed.get_world_size()

    def _diverged(self, loss: float, step: "_Step") -> TrainingError:
        names = ", ".join(self._plan.name(index) for index in step.indices.tolist())
        epoch = self.trainer.current_epoch
        return TrainingError(
            f"the loss became {loss} in epoch {epoch + 1}, step {step.number + 1}, on the frames {names}; "
            f"the network of epoch {epoch} is kept",
            hint="lower train.learning_rate, or look at these frames",
        )


def step_seed(seed: int, epoch: int, batch: int, process: int) -> int:
    """Of what random layers draw in one step: no two steps of any trainings share it."""
    return int(np.random.SeedSequence((seed, epoch, batch, process)).generate_state(1, np.uint64)[0])
