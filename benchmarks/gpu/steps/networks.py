"""Five networks, two sizes, batches and precisions: ours host to host against PyTorch eager and ONNX Runtime CUDA."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from benchmarks.gpu.cells import BATCHES, PRECISIONS, Network, label, measure, opened
from benchmarks.gpu.graphs import Subject, make_all
from benchmarks.gpu.plan import Folders
from benchmarks.gpu.runs import usable_flavours

NETWORKS = (
    "torchvision/lraspp_mobilenet_v3_large", "ddrnet23_slim", "smp/unet/resnet18", "smp/segformer/mit_b0",
    "torchvision/deeplabv3_resnet50",
)  # fmt: skip
SIZES = ((1024, 2048), (512, 1024))


def run(folders: Folders) -> Iterator[dict[str, Any]]:
    """[p50, low, high] in milliseconds a batch for every contestant of every cell; the large size first."""
    found: dict[str, Any] = {}
    for size in SIZES:
        subjects = [Subject(network, size) for network in NETWORKS]
        reasons = make_all(subjects, folders.work)
        found |= {f"{subject.network} {size[0]}x{size[1]}": reason for subject, reason in reasons.items()}
        for subject, precision in product([s for s in subjects if s not in reasons], PRECISIONS):
            network = Network(subject.folder(folders.work))
            with opened(network, precision, usable_flavours(folders)) as (contestants, absent):
                for batch in BATCHES:
                    found[label(subject, precision, batch)] = absent | measure(contestants, size, batch)
                    yield found
    assert any(isinstance(cell, dict) for cell in found.values()), f"no network could be exported: {found}"
