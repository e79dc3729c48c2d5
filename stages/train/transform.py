"""The user's own augmentation: a torchvision v2 transform, drawn from the sample's own random numbers."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from segpipe.errors import ConfigError
from stages.config.user_code import find_factory
from stages.train.augment import Transform


def open_transform(name: str) -> Transform:
    """Call `package.module:factory` and make its transform one of crops and labels."""
    change = find_factory(name, "train.augment.transform")()

    def apply(crop: NDArray[np.float32], labels: NDArray[Any], seed: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            image, mask = change(
                tv_tensors.Image(torch.from_numpy(crop)), tv_tensors.Mask(torch.from_numpy(labels.astype(np.int32)))
            )
        if image.shape[1:] != mask.shape or image.shape[0] != crop.shape[0]:
            raise ConfigError(
                f"train.augment.transform = '{name}' gave an image {tuple(image.shape)} and a mask {tuple(mask.shape)}",
                hint="keep the channels, and give both one height and width",
            )
        return image.numpy().astype(np.float32), mask.numpy().astype(labels.dtype)

    return apply
