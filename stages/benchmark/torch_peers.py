"""PyTorch as a user would run it: eager FP32, half precision with channels_last, torch.compile."""

import logging
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from segpipe.contract.schema import AnyContract
from segpipe.processor import computes
from stages.benchmark.contestants import Candidate, Entrant, Scene
from stages.benchmark.usual import class_mask, finished, published
from stages.models import checkpoint, reference

EAGER, HALF, COMPILED = "PyTorch eager FP32", "PyTorch half channels_last", "PyTorch torch.compile"
NAMES = {"eager": EAGER, "half": HALF, "compile": COMPILED}


def candidates(weights: Callable[[], bytes], scene: Scene) -> Iterator[Candidate]:
    """The PyTorch contestants; each loads a network of its own, since half precision changes it in place."""
    for name, opener in ((EAGER, _eager), (HALF, _half), (COMPILED, _compiled)):
        yield Candidate(name, "end to end", False, partial(_entrant, opener, weights, scene))


def device() -> torch.device:
    """The GPU where PyTorch sees one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half_type() -> torch.dtype:
    """The half precision that is worth trying here; raises where there is none."""
    if device().type == "cuda":
        return torch.float16
    if computes("bf16"):
        return torch.bfloat16
    raise NotImplementedError("this processor has no arithmetic in bf16 or FP16")


class TorchPeer:
    """A network with the definition of pre- and post-processing around it, on one device."""

    def __init__(self, network: nn.Module, contract: AnyContract, dtype: torch.dtype = torch.float32) -> None:
        self._network, self._contract, self._dtype = network, contract, dtype
        self._device = device()
        self._channels_last = dtype != torch.float32 and contract.input_layout == "nchw"

    def mask(self, frame: NDArray[Any]) -> NDArray[Any]:
        """The class of each pixel."""
        return class_mask(self(frame), self._contract.place(*frame.shape[:2]), self._contract)

    @torch.inference_mode()
    def __call__(self, frame: NDArray[Any]) -> Any:
        """Frame to mask, or to things."""
        placement = self._contract.place(*frame.shape[:2])
        tensor = reference.preprocess(frame, self._contract, placement, self._device).to(self._dtype)
        if self._channels_last:
            tensor = tensor.to(memory_format=torch.channels_last)
        if (whole := getattr(self._network, "published", None)) is not None:
            return published(whole(tensor)[0], placement, self._contract)
        output = self._network(tensor)
        return finished(output if isinstance(output, tuple) else (output,), placement, self._contract)


def _entrant(
    opener: Callable[[nn.Module, AnyContract], TorchPeer], weights: Callable[[], bytes], scene: Scene
) -> Entrant:
    network = checkpoint.from_bytes(weights()).network.to(device())
    peer = opener(network, scene.contract)
    return Entrant(lambda number: peer(scene.frame(number)), peer.mask)


def _eager(network: nn.Module, contract: AnyContract) -> TorchPeer:
    return TorchPeer(network, contract)


def _half(network: nn.Module, contract: AnyContract) -> TorchPeer:
    dtype = half_type()
    return TorchPeer(network.to(dtype).to(memory_format=torch.channels_last), contract, dtype)


def _compiled(network: nn.Module, contract: AnyContract) -> TorchPeer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns where there is no GPU
        compiled: Any = torch.compile(network)
    return TorchPeer(compiled, contract)
