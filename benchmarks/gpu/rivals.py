"""What a user would run instead: PyTorch with pre and post on the GPU, and ONNX Runtime between them.

Batches of frames at the network's own size, host to host. Written to be as fast as a careful user would have it: frames
go up as bytes, masks come down as bytes, ONNX Runtime reads and writes PyTorch's memory.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.contract.schema import Contract
from segpipe.errors import BackendError

Masks = Callable[[NDArray[Any]], object]
_TYPES = {"tensor(float)": (np.float32, torch.float32), "tensor(float16)": (np.float16, torch.float16)}


class EndToEnd(nn.Module):
    """NxHxWx3 bytes to NxHxW bytes, with the network's scores in between."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Callable[[Tensor], Tensor], contract: Contract, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self._dtype = network, dtype
        self._format = torch.contiguous_format if dtype == torch.float32 else torch.channels_last
        self.register_buffer("mean", 255 * torch.tensor(contract.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(contract.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        pixels = (frames.permute(0, 3, 1, 2).float() - self.mean) / self.std
        scores = self.network(pixels.to(self._dtype).contiguous(memory_format=self._format))
        full = F.interpolate(scores, frames.shape[1:3], mode="bilinear", align_corners=False)
        return full.argmax(1).to(torch.uint8)


def eager(network: nn.Module, contract: Contract, dtype: torch.dtype) -> Masks:
    """PyTorch as it is; half precision in channels_last."""
    return _masks(_ready(network, contract, dtype))


def compiled(network: nn.Module, contract: Contract) -> Masks:
    """torch.compile over everything, the longest search, FP16 in channels_last; the first call takes minutes."""
    return _masks(torch.compile(_ready(network, contract, torch.float16), mode="max-autotune", dynamic=False))


def onnx_cuda(graph: bytes, contract: Contract) -> Masks:
    """ONNX Runtime's CUDA provider on PyTorch's memory."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # its threads would slow PyTorch's part
    session = onnxruntime.InferenceSession(graph, options, providers=["CUDAExecutionProvider"])
    if "CUDAExecutionProvider" not in session.get_providers():
        raise BackendError("ONNX Runtime has no CUDA provider here")
    (_, torch_in), (_, torch_out) = (_TYPES[t.type] for t in (session.get_inputs()[0], session.get_outputs()[0]))

    def network(pixels: Tensor) -> Tensor:
        pixels = pixels.to(torch_in).contiguous()
        sides = (side // contract.output_stride for side in pixels.shape[2:])
        scores = torch.empty((len(pixels), contract.score_channels, *sides), dtype=torch_out, device="cuda")
        torch.cuda.current_stream().synchronize()  # ONNX Runtime works on a stream of its own, and waits for that
        binding = session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, contract.input_name, pixels),
            (binding.bind_output, contract.output_name, scores),
        ):
            kind = np.float16 if tensor.dtype == torch.float16 else np.float32
            bind(name, "cuda", 0, kind, tuple(tensor.shape), tensor.data_ptr())
        session.run_with_iobinding(binding)
        return scores

    return _masks(EndToEnd(network, contract, torch.float32).cuda())


def _ready(network: nn.Module, contract: Contract, dtype: torch.dtype) -> EndToEnd:
    torch.backends.cudnn.benchmark = True  # sizes never change here, so let cuDNN look for its fastest
    layout = torch.contiguous_format if dtype == torch.float32 else torch.channels_last
    module = EndToEnd(network.to(dtype).to(memory_format=layout), contract, dtype)
    return module.cuda().eval()


def _masks(module: Any) -> Masks:
    staging: dict[tuple[int, ...], Tensor] = {}

    @torch.inference_mode()
    def masks(frames: NDArray[Any]) -> NDArray[Any]:
        if frames.shape not in staging:
            staging[frames.shape] = torch.empty(frames.shape, dtype=torch.uint8, pin_memory=True)
        pinned = staging[frames.shape].copy_(torch.from_numpy(frames))
        found: NDArray[Any] = module(pinned.to("cuda", non_blocking=True)).cpu().numpy()
        return found

    return masks
