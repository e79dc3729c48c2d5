"""Five networks, two sizes, batches and precisions: ours host to host against PyTorch eager and ONNX Runtime CUDA."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from benchmarks.gpu.cells import BATCHES, PRECISIONS, Network, label, measure, opened
from benchmarks.gpu.graphs import Subject
from benchmarks.gpu.plan import Folders
from benchmarks.gpu.runs import usable_flavours

NETWORKS = (
    "torchvision/lraspp_mobilenet_v3_large", "ddrnet23_slim", "smp/unet/resnet18", "smp/segformer/mit_b0",
    "torchvision/deeplabv3_resnet50",
)  # fmt: skip
SIZES = ((1024, 2048), (512, 1024))


def subjects(size: tuple[int, int]) -> list[Subject]:
    """All networks at one size."""
    return [Subject(network, size) for network in NETWORKS]


def run(folders: Folders) -> Iterator[dict[str, Any]]:
    """[p50, low, high] in milliseconds a batch for every contestant of every cell; the large size first."""
    found: dict[str, Any] = {}
    for size in SIZES:
        made = [subject for subject in subjects(size) if subject.is_made(folders.work)]
        for subject, precision in product(made, PRECISIONS):
            network = Network(subject.folder(folders.work))
            with opened(network, precision, usable_flavours(folders)) as (contestants, absent):
                for batch in BATCHES:
                    found[label(subject, precision, batch)] = absent | measure(contestants, size, batch)
                    yield found
    assert found, "no network is exported: the step `exports` must run first"
