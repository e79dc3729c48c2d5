"""Networks with random weights as the files that contestants run: their speed is that of trained ones."""

import os
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import nn

from segpipe.contract.schema import Contract
from segpipe.rundir.storage import write_atomically
from stages.config.root import BuildConfig, ExportConfig, ModelConfig
from stages.export.files import export_files
from stages.export.source import trained_source
from stages.models import build_network, checkpoint

CLASSES = 19
_FILES = (checkpoint.FILE_NAME, "model.onnx", "model.fp16.onnx", "contract.json")


@dataclass(frozen=True)
class Subject:
    """A network at one input size."""

    network: str
    size: tuple[int, int]

    def folder(self, work: Path) -> Path:
        """Where its files lie."""
        return work / "networks" / f"{self.network.replace('/', '-')}-{self.size[0]}"

    def is_made(self, work: Path) -> bool:
        """Whether an earlier call made all of them."""
        return all((self.folder(work) / name).is_file() for name in _FILES)


def make_all(subjects: Iterable[Subject], work: Path) -> dict[Subject, str]:
    """Export what is not there yet, side by side in processes without the GPU; the reasons of those that failed."""
    missing = [subject for subject in subjects if not subject.is_made(work)]
    if not missing:
        return {}
    workers = max(1, min(len(missing), (os.cpu_count() or 1) // 2))
    with ProcessPoolExecutor(workers, get_context("spawn"), _stay_on_cpu) as pool:
        waiting = {subject: pool.submit(make, subject, work) for subject in missing}
    return {subject: reason for subject, future in waiting.items() if (reason := _reason(future))}


def make(subject: Subject, work: Path) -> None:
    """Weights, both graphs and the contract of one network."""
    torch.manual_seed(0)
    model = ModelConfig(name=subject.network)
    network = build_network(model, 3, CLASSES)
    _settle(network)
    contract = Contract(
        classes=tuple(f"class {number}" for number in range(CLASSES)),
        network_size=subject.size,
        output_stride=int(network.stride),  # type: ignore[arg-type]  # what networks promise, see stages.models
        size_multiple=int(network.size_multiple),  # type: ignore[arg-type]
    )
    palette = tuple((number, number, number) for number in range(CLASSES))
    weights = checkpoint.to_bytes(checkpoint.Trained(network, contract, palette), model)
    options = ExportConfig(fp32_islands=("weights",))
    exported = export_files(trained_source(weights, options.opset), options, BuildConfig(max_batch=1), lambda: ())
    folder = subject.folder(work)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {checkpoint.FILE_NAME: weights, **exported.files}.items():
        write_atomically(folder / name, content)


def _settle(network: nn.Module) -> None:
    """Batch-norm statistics from noise: with those of a fresh network activations fade to nothing."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network.train()
    with torch.no_grad():
        network(torch.randn(2, 3, 256, 512))
    network.eval()


def _stay_on_cpu() -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(2)


def _reason(future: "Future[None]") -> str:
    error = future.exception()
    return f"{type(error).__name__}: {error}" if error else ""
