"""What one training step keeps in memory, counted without computing anything: `python -m benchmarks.training_memory`.

Counts every tensor that autograd saves for the backward pass (each storage once), weights, gradients and AdamW's two
moments, and on top the three largest tensors, which live for a moment in the backward pass. Cross-entropy at full
resolution, auxiliary heads included; bf16: activations in bf16, loss and weights in FP32, as mixed precision has them.
What cuDNN's workspaces and the allocator's gaps take comes on top.
"""

import argparse
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from stages.config.root import ModelConfig
from stages.models import build_network

NAMES = ("ddrnet23_slim", "bisenetv2", "torchvision/lraspp_mobilenet_v3_large")
_CLASSES = 19
_COPIES = 4  # weights, gradients, two moments
_TRANSIENT = 3
_GB = 1e9


@dataclass
class Kept:
    """Storages saved for the backward pass, by identity: several views of one count once."""

    bytes_by_storage: dict[int, int] = field(default_factory=dict)

    def note(self, tensor: Tensor) -> Tensor:
        """A hook for autograd."""
        storage = tensor.untyped_storage()
        self.bytes_by_storage[storage._cdata] = storage.nbytes()
        return tensor


def step_bytes(name: str, batch: int, size: tuple[int, int], kind: torch.dtype) -> dict[str, int]:
    """Of one step; nothing is allocated."""
    network: Any = build_network(ModelConfig(name=name), 3, _CLASSES).to("meta").train()
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    network.to(kind)
    image = torch.empty(batch, 3, *size, device="meta", dtype=kind)
    labels = torch.empty(batch, *size, dtype=torch.long, device="meta")
    kept = Kept()
    with saved_tensors_hooks(kept.note, lambda tensor: tensor):
        outputs = network(image)
        loss = sum(_loss(output, labels) for output in (outputs if isinstance(outputs, tuple) else (outputs,)))
    saved = kept.bytes_by_storage.values()
    assert isinstance(loss, Tensor)  # it holds the graph, and that the storages, until here
    found = {"saved": sum(saved), "weights": _COPIES * weights, "transient": sum(sorted(saved)[-_TRANSIENT:])}
    return found | {"together": sum(found.values())}


def _loss(output: Tensor, labels: Tensor) -> Tensor:
    scores = F.interpolate(output.float(), labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(scores, labels, ignore_index=255)


def main() -> None:
    """Print a line a network and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048))
    options = parser.parse_args()
    for name in options.names:
        for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            found = step_bytes(name, options.batch, tuple(options.size), kind)
            told = ", ".join(f"{what} {size / _GB:.2f} GB" for what, size in found.items())
            print(f"{name}, {options.batch} x {options.size[0]}x{options.size[1]}, {precision}: {told}")


if __name__ == "__main__":
    main()
