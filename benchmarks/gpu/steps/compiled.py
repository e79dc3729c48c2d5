"""Against torch.compile (max-autotune, FP16, channels_last) over the whole way from bytes to masks; slow to compile."""

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import torch

from benchmarks.gpu import rivals
from benchmarks.gpu.cells import BATCHES, Network, attempt, label, measure, opened
from benchmarks.gpu.graphs import Subject
from benchmarks.gpu.plan import Folders
from benchmarks.gpu.runs import usable_flavours
from benchmarks.gpu.steps.networks import NETWORKS, SIZES

_NAME = "torch.compile max-autotune fp16"


def run(folders: Folders) -> Iterator[dict[str, Any]]:
    """As step `networks`; those that targets are set for come first, and each is kept when it is done."""
    found: dict[str, Any] = {}
    for batch, size, name in product(BATCHES, SIZES, NETWORKS):
        subject = Subject(name, size)
        if not subject.is_made(folders.work):
            continue
        network = Network(subject.folder(folders.work))
        with opened(network, "fp16", usable_flavours(folders)) as (contestants, absent):
            able, reasons = attempt({_NAME: partial(_compiled, network)})
            found[label(subject, "fp16", batch)] = absent | reasons | measure(contestants | able, size, batch)
            yield found


def _compiled(network: Network) -> rivals.Masks:
    torch.compiler.reset()
    return rivals.compiled(network.module(), network.contract)
