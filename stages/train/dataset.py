"""Training and validation samples for torch's loaders: every random number comes from (seed, epoch, index)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from segpipe.contract import Contract
from stages.augment import Augmentation, augment
from stages.config import TrainConfig
from stages.data import Split


class EpochSampler(Sampler[tuple[int, int]]):
    """A permutation that depends on (seed, epoch) alone, so that a resumed epoch is the same epoch."""

    def __init__(self, count: int, seed: int, epoch: int) -> None:
        self._count, self._seed, self._epoch = count, seed, epoch

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(self._count)
        return ((self._epoch, int(index)) for index in order)


class TrainingSet(Dataset[tuple[Tensor, Tensor]]):
    """Augmented crops as normalised CxHxW tensors with their labels."""

    def __init__(self, split: Split, contract: Contract, config: TrainConfig) -> None:
        self._split, self._contract, self._seed = split, contract, config.seed
        self._how = Augmentation.from_config(config, contract)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        rng = np.random.default_rng((self._seed, epoch, index))
        frame, labels = self._split.sample(index)
        image, mask = augment(frame, labels, self._contract, self._how, rng)
        return _normalised(image, self._contract), torch.from_numpy(mask.astype(np.int64))


class FrameSet(Dataset[tuple[NDArray[Any], NDArray[Any]]]):
    """Whole frames with labels, untouched."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._split.sample(index)


def training_loader(split: Split, contract: Contract, config: TrainConfig, epoch: int) -> DataLoader[Any]:
    """Batches of one epoch."""
    return DataLoader(
        TrainingSet(split, contract, config),
        batch_size=config.batch_size,
        sampler=EpochSampler(len(split), config.seed, epoch),
        num_workers=config.workers,
        drop_last=len(split) >= config.batch_size,  # a last batch of one frame upsets batch normalisation
        generator=torch.Generator().manual_seed(config.seed),
    )


def frame_loader(split: Split, workers: int) -> DataLoader[Any]:
    """One untouched frame at a time."""
    return DataLoader(
        FrameSet(split),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_is,
        generator=torch.Generator().manual_seed(0),
    )


def _as_is(sample: Any) -> Any:
    return sample


def _normalised(image: NDArray[np.float32], contract: Contract) -> Tensor:
    """The contract's arithmetic after its resize, which the augmentation has done."""
    if contract.channel_order == "bgr":
        image = image[:, :, ::-1]
    low, high = contract.value_range
    mean, std = np.array(contract.mean, np.float32), np.array(contract.std, np.float32)
    scaled = ((image - low) / (high - low) - mean) / std
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32))
