"""The networks of later steps as files: random weights, both graphs and the contract. On the CPU, all cores."""

from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.graphs import make_all
from benchmarks.gpu.plan import Folders
from benchmarks.gpu.steps.networks import SIZES, subjects


def run(folders: Folders) -> Iterator[dict[str, Any]]:
    """Why a network could not be exported; the large size first, so that a killed step leaves what counts most."""
    found: dict[str, Any] = {}
    for size in SIZES:
        reasons = make_all(subjects(size), folders.work)
        found |= {f"{subject.network} {size[0]}x{size[1]}": reason for subject, reason in reasons.items()}
        yield found
