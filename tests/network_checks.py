"""The contract that every network is held to. A check raises AssertionError where it is broken."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from segpipe.contract.schema import Contract
from stages.build.engines import build_one, make_request
from stages.config.root import BuildConfig, ExportConfig, ModelConfig, Profile
from stages.export.equality import require_equal, session
from stages.export.files import export_files
from stages.export.source import trained_source
from stages.graphs.input_shapes import shape_ranges
from stages.models import build_network, checkpoint
from stages.models.checkpoint import Trained

GRAPHS = ("model.onnx", "model.fp16.onnx")
LOSS_FALLS_TO = 0.9
"""Of the first loss, within STEPS steps on one batch: a network that learns at all does far better."""
STEPS = 8
AUXILIARY_WEIGHT = 0.4
SIZES = ((128, 128), (128, 192))
"""Multiples of every listed network's deepest stride; smaller ones leave PAN nothing to pool."""
SMALL_SIZES = ((64, 64), (64, 96))
"""For where time matters."""

_CHANNELS, _CLASSES = 3, ("a", "b", "c", "d")
_MAX_BATCH = 2


@dataclass(frozen=True)
class Subject:
    """A network under test, made as `config` says, in eval mode."""

    config: ModelConfig
    network: nn.Module
    sizes: tuple[tuple[int, int], ...] = SIZES

    @classmethod
    def make(cls, config: ModelConfig, sizes: tuple[tuple[int, int], ...] = SIZES) -> Self:
        """Random weights, the same each time, with batch statistics that fit them.

        Without these nothing is normalised in eval mode, and deep networks leave FP16's range.
        """
        torch.manual_seed(0)
        network = build_network(config, _CHANNELS, len(_CLASSES))
        update_bn([_batch(2, sizes[0])[0]], network)
        return cls(config, network.eval(), sizes)

    def contract(self, *, open_sizes: bool) -> Contract:
        """What it promises, for one size or for every size."""
        stride, multiple = vars_of(self.network)
        return Contract(
            classes=_CLASSES,
            output_stride=stride,
            size_multiple=multiple,
            fit="pad" if open_sizes else "stretch",
            network_size=None if open_sizes else self.sizes[0],
        )

    def trained(self, *, open_sizes: bool) -> bytes:
        """As model.safetensors."""
        palette = tuple((index, index, index) for index in range(len(_CLASSES)))
        return checkpoint.to_bytes(Trained(self.network, self.contract(open_sizes=open_sizes), palette), self.config)


def vars_of(network: nn.Module) -> tuple[int, int]:
    """Stride and size multiple as declared."""
    stride, multiple = network.stride, network.size_multiple
    assert isinstance(stride, int)
    assert isinstance(multiple, int)
    return stride, multiple


def check_stride(subject: Subject) -> None:
    """One finite tensor at the declared stride, for two sizes."""
    stride, multiple = vars_of(subject.network)
    for height, width in subject.sizes:
        assert height % multiple == width % multiple == 0, f"size_multiple {multiple} does not divide {height}x{width}"
        with torch.inference_mode():
            scores = subject.network(torch.randn(1, _CHANNELS, height, width))
        assert isinstance(scores, Tensor), f"eval mode gave {type(scores).__name__}"
        assert scores.shape == (1, len(_CLASSES), height // stride, width // stride), f"{tuple(scores.shape)}"
        assert bool(scores.isfinite().all()), "scores are not finite"


def check_learning(subject: Subject, batch: int = 2) -> None:
    """The loss falls on one batch, auxiliary heads included."""
    torch.manual_seed(0)
    images, labels = _batch(batch, subject.sizes[0])
    network = subject.network.train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(STEPS):
        loss = _loss(network(images), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        optimiser.step()
        losses.append(float(loss.detach()))
    network.eval()
    assert min(losses) <= LOSS_FALLS_TO * losses[0], f"loss went {losses[0]:.3f} -> {losses[-1]:.3f}"


def check_batch_of_one(subject: Subject) -> None:
    """A training step with a single image."""
    images, labels = _batch(1, subject.sizes[0])
    network = subject.network.train()
    try:
        assert bool(_loss(network(images), labels).isfinite()), "loss is not finite"
    finally:
        network.eval()


def check_round_trip(subject: Subject) -> None:
    """safetensors gives the same scores, bit by bit."""
    restored = checkpoint.from_bytes(subject.trained(open_sizes=False)).network
    image = torch.randn(1, _CHANNELS, *subject.sizes[0])
    with torch.inference_mode():
        expected, found = subject.network(image), restored(image)
    assert torch.equal(expected, found)


def export(subject: Subject, *, open_sizes: bool) -> dict[str, bytes]:
    """Both graphs, as the export stage makes them."""
    source = trained_source(subject.trained(open_sizes=open_sizes), ExportConfig().opset)
    config = ExportConfig(fp32_islands=("weights",))  # there are no frames to probe activations with
    return export_files(source, config, _shapes(subject, open_sizes=open_sizes), lambda: ()).files


def check_export(subject: Subject, files: dict[str, bytes], *, open_sizes: bool) -> None:
    """ONNX Runtime gives PyTorch's scores, at two sizes where sizes are open; the FP16 graph gives finite ones.

    How near FP16 comes is for the release gate, on trained weights: with random ones SegNet's pooling indices flip
    when the input alone is rounded to FP16, and a quarter of the scores' norm with them.
    """
    contract = subject.contract(open_sizes=open_sizes)
    full, half = (session(onnx.load_model_from_string(files[name]), contract) for name in GRAPHS)

    @torch.inference_mode()
    def network(tensor: NDArray[Any]) -> NDArray[Any]:
        return subject.network(torch.from_numpy(tensor)).numpy()

    sizes = subject.sizes if open_sizes else subject.sizes[:1]
    images = [("noise", torch.randn(1, _CHANNELS, *size).numpy()) for size in sizes]
    require_equal(network, full, contract, images)
    for _, image in images:
        scores = half(image)
        assert scores.shape == network(image).shape
        assert bool(np.isfinite(scores).all()), f"model.fp16.onnx at {image.shape} is not finite"


def check_fp16_engine(subject: Subject, files: dict[str, bytes], *, open_sizes: bool) -> dict[str, Any]:
    """TensorRT for RTX builds it; the share of compute layers in FP16, which the build limits, its time and size."""
    config, contract = _shapes(subject, open_sizes=open_sizes), subject.contract(open_sizes=open_sizes)
    shapes = shape_ranges(contract, config, [None, _CHANNELS, *(contract.network_size or (None, None))])
    request = make_request("tensorrt-rtx", files["model.fp16.onnx"], contract.input_name, shapes, config)
    figures = build_one("tensorrt-rtx", request, config, frozenset())[1]
    return {name: figures[name] for name in ("fp16_share", "compute_layers", "seconds", "engine_bytes")}


def _shapes(subject: Subject, *, open_sizes: bool) -> BuildConfig:
    """Batches up to _MAX_BATCH; where sizes are open, from the smallest of the subject's to twice the largest."""
    if not open_sizes:
        return BuildConfig(max_batch=_MAX_BATCH)
    (low, narrow), (high, wide) = min(SIZES), max(SIZES)
    sides = {"height": (low, high, 2 * high), "width": (narrow, wide, 2 * wide)}
    return BuildConfig(profiles=(Profile(batch=(1, 1, _MAX_BATCH), **sides),))


def _batch(count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Noise, coloured by quadrants that are also the labels."""
    height, width = size
    rows, columns = torch.arange(height)[:, None] >= height // 2, torch.arange(width)[None] >= width // 2
    labels = (rows.long() * 2 + columns.long())[None].expand(count, -1, -1)
    return torch.randn(count, _CHANNELS, height, width) + labels[:, None].float(), labels


def _loss(output: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    main, *others = output if isinstance(output, tuple) else (output,)
    return _one_loss(main, labels) + sum((AUXILIARY_WEIGHT * _one_loss(o, labels) for o in others), torch.zeros(()))


def _one_loss(scores: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.interpolate(scores, labels.shape[1:], mode="bilinear", align_corners=False), labels)
