"""BiRefNet of nobg, a matting network: `pip install nobg[onnx] torch torchvision`."""

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.exporters.leaving import Left, given, leave

os.environ["HF_HUB_OFFLINE"] = "1"
SIZE = (256, 256)
"""Its networks are square."""


def main() -> None:
    """Export, then answer by its own `predict`: a matte of the frame's size, of which half counts as foreground."""
    from nobg.birefnet.modeling_birefnet import BiRefNet, BiRefNetConfig

    it = given()
    torch.manual_seed(0)
    small: Any = {"embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 4}
    network = BiRefNet(BiRefNetConfig(image_size=SIZE[0], dec_channels_inter=16, **small)).eval()
    _centre(network, network.default_processor(), it.fitting(SIZE)[:4])
    network.onnx_save_pretrained(it.out)
    model = BiRefNet.onnx_from_pretrained(str(it.out))
    processor = model.default_processor()

    def answer(frame: NDArray[np.uint8]) -> NDArray[Any]:
        matte = model.predict(processor, Image.fromarray(frame), return_type="alpha")
        found: NDArray[Any] = (matte >= 0.5).numpy()
        return found

    leave(it, Left(answer, answer, ("nobg", "transformers", "torch", "onnxruntime"), size=SIZE))


def _centre(network: Any, processor: Any, frames: NDArray[np.uint8]) -> None:
    """Half of the pixels become foreground."""
    pixels = processor([*frames], return_tensors="pt")["pixel_values"]
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    with torch.no_grad():
        logits = network(pixels)["logits"]
        last: Any = next(layer for layer in reversed(convolutions) if layer.out_channels == 1)
        last.bias -= logits.median()


if __name__ == "__main__":
    main()
