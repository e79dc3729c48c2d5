"""Training and validation samples for torch's loaders: every random number comes from (seed, epoch, index)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from segpipe.contract.schema import AnyContract
from segpipe.cores import usable_cores
from segpipe.errors import DataError, SegpipeError
from stages.config.root import TrainConfig
from stages.data import Split
from stages.tasks import offline_task_of
from stages.train.augment import Augmentation, augment, crop_size
from stages.train.transform import open_transform

Batch = tuple[Tensor, Tensor, Tensor]
"""Images BxCxHxW, labels BxHxW, and the indices of the frames they come from."""


@dataclass(frozen=True)
class Process:
    """One of the processes that train together."""

    rank: int = 0
    world: int = 1


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """This process's part of each batch. The order depends on (seed, epoch) alone, so a resumed epoch is the same."""

    def __init__(self, count: int, config: TrainConfig, epoch: int, process: Process) -> None:
        self._count, self._config, self._epoch, self._process = count, config, epoch, process
        if count < config.batch_size and process.world > 1:
            raise DataError(
                f"the train split has {count} frames, less than one batch of {config.batch_size}",
                hint="lower train.batch_size or train.devices",
            )

    def __len__(self) -> int:
        return batches_an_epoch(self._count, self._config)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self._config.seed, self._epoch)).permutation(self._count)
        size, world = self._config.batch_size, self._process.world
        for first in range(0, len(self) * size, size):
            batch = order[first : first + size]
            share = -(-len(batch) // world)
            mine = batch[self._process.rank * share : (self._process.rank + 1) * share]
            yield [(self._epoch, int(index)) for index in mine]


def batches_an_epoch(count: int, config: TrainConfig) -> int:
    """A rest that fills no batch waits for another epoch: few frames upset batch normalisation."""
    return max(1, count // config.batch_size)


class TrainingSet(Dataset[tuple[Tensor, Tensor, int]]):
    """Augmented crops as normalised CxHxW tensors with their labels and index."""

    def __init__(self, split: Split, contract: AnyContract, config: TrainConfig) -> None:
        self._split, self._contract, self._config = split, contract, config
        self._task = offline_task_of(contract)
        self._transform = open_transform(config.augment.transform) if config.augment.transform else None

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        epoch, index = key
        rng = np.random.default_rng((self._config.seed, epoch, index))
        frame, labels = self._split.sample(index)
        crop = crop_size(self._config, self._contract, epoch)
        how = Augmentation(crop, self._config.augment, self._transform)
        image, mask = augment(frame, labels, self._contract, how, rng)
        return torch.from_numpy(image), self._task.targets(mask), index


class FrameSet(Dataset[tuple[NDArray[Any], NDArray[Any], int]]):
    """Whole frames with labels and index, untouched."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], NDArray[Any], int]:
        return *self._split.sample(index), index


def training_loader(
    split: Split, contract: AnyContract, config: TrainConfig, epoch: int, process: Process = Process()
) -> DataLoader[Any]:
    """Batches of one epoch."""
    return _Loader(
        _ErrorsAsValues(TrainingSet(split, contract, config)),
        batch_sampler=EpochBatches(len(split), config, epoch, process),
        num_workers=_useful(config.workers),
        collate_fn=_collated,
        worker_init_fn=_one_thread,
        generator=torch.Generator().manual_seed(config.seed),
        pin_memory=torch.cuda.is_available(),
    )


def frame_loader(split: Split, workers: int, process: Process = Process()) -> DataLoader[Any]:
    """One untouched frame at a time; every frame in exactly one process, also when they do not divide."""
    return _Loader(
        _ErrorsAsValues(FrameSet(split)),
        batch_size=None,
        sampler=range(process.rank, len(split), process.world),
        num_workers=_useful(workers),
        collate_fn=_as_is,
        worker_init_fn=_one_thread,
        generator=torch.Generator().manual_seed(0),
    )


def _useful(workers: int) -> int:
    """No more than there are cores: they would only wait for each other. What is loaded does not depend on it."""
    return min(workers, usable_cores())


class _ErrorsAsValues(Dataset[Any]):
    """Hands known errors out instead of raising them: torch would make a worker's traceback their message."""

    def __init__(self, samples: Dataset[Any]) -> None:
        self._samples = samples

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._samples[key]
        except SegpipeError as error:
            return error


class _Loader(DataLoader[Any]):
    """Raises the errors that `_ErrorsAsValues` handed out, as they were in the worker."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            if isinstance(batch, SegpipeError):
                raise batch
            yield batch


def _collated(samples: list[Any]) -> Any:
    errors = [sample for sample in samples if isinstance(sample, SegpipeError)]
    return errors[0] if errors else default_collate(samples)


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)  # workers are the parallelism


def _as_is(sample: Any) -> Any:
    return sample
