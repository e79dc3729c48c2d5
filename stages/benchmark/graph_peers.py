"""The exported graph as a user would run it otherwise: ONNX Runtime or OpenVINO between PyTorch's pre and post."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch
from numpy.typing import NDArray

from segpipe.contract.schema import AnyContract
from segpipe.errors import BackendError, BackendMissingError
from stages.benchmark.contestants import Candidate, Entrant, Scene
from stages.benchmark.usual import class_mask, finished
from stages.models import reference

ORT, ORT_CUDA, OPENVINO = (
    "ONNX Runtime, PyTorch pre/post",
    "ONNX Runtime CUDA, PyTorch pre/post",
    "OpenVINO, PyTorch pre/post",
)
NAMES = {"onnxruntime": ORT, "onnxruntime-cuda": ORT_CUDA, "openvino": OPENVINO}

_Network = Callable[[NDArray[Any]], Sequence[NDArray[Any]]]
"""An input tensor to the outputs that the contract names, in its order."""


def candidates(graph: Callable[[], bytes], scene: Scene) -> Iterator[Candidate]:
    """The same ONNX file that ours runs, with the parts around it that are easiest to write."""
    openers: dict[str, Callable[[bytes, Scene], _Network]] = {
        ORT: partial(_onnxruntime, provider="CPUExecutionProvider"),
        ORT_CUDA: partial(_onnxruntime, provider="CUDAExecutionProvider"),
        OPENVINO: _openvino,
    }
    for name, opener in openers.items():
        yield Candidate(name, "end to end", False, partial(_entrant, opener, graph, scene))


def _entrant(opener: Callable[[bytes, Scene], _Network], graph: Callable[[], bytes], scene: Scene) -> Entrant:
    network = opener(graph(), scene)
    contract = scene.contract

    def mask(frame: NDArray[Any]) -> NDArray[Any]:
        return class_mask(_segment(network, frame, contract), contract.place(*frame.shape[:2]), contract)

    return Entrant(lambda number: _segment(network, scene.frame(number), contract), mask)


@torch.inference_mode()
def _segment(network: _Network, frame: NDArray[Any], contract: AnyContract) -> Any:
    placement = contract.place(*frame.shape[:2])
    tensor = reference.preprocess(frame, contract, placement).numpy()
    return finished([torch.from_numpy(output) for output in network(tensor)], placement, contract)


def _onnxruntime(graph: bytes, scene: Scene, provider: str) -> _Network:
    ort = _package("onnxruntime", "pip install 'segpipe[cpu]'")
    if provider not in ort.get_available_providers() or (provider.startswith("CUDA") and not torch.cuda.is_available()):
        raise BackendError(f"{provider} is not available here", hint="it needs an NVIDIA GPU and 'segpipe[cuda]'")
    state = ort.capi.onnxruntime_pybind11_state
    failures = tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    options = ort.SessionOptions()
    options.intra_op_num_threads = scene.threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # as ours: it slows PyTorch's part after it
    name, wanted = scene.contract.input_name, [*scene.contract.output_names]

    def run(tensor: NDArray[Any]) -> Sequence[NDArray[Any]]:
        try:
            return session.run(wanted, {name: tensor})
        except failures as error:
            raise BackendError(f"ONNX Runtime failed: {error}") from error

    try:
        session = ort.InferenceSession(graph, options, providers=[provider])
    except failures as error:
        raise BackendError(f"ONNX Runtime cannot open the graph: {error}") from error
    return run


def _openvino(graph: bytes, scene: Scene) -> _Network:
    """In FP32, as the others: where a processor has bf16 OpenVINO would take that by itself."""
    _package("openvino", "pip install openvino")
    core = import_module("segpipe.runtime.backends.openvino").core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": scene.threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(core.read_model(graph, b""), "CPU", settings).create_infer_request()
    names = scene.contract.output_names

    def run(tensor: NDArray[Any]) -> Sequence[NDArray[Any]]:
        found = request.infer([tensor])
        return [found[name] for name in names]

    return run


def _package(name: str, hint: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise BackendMissingError(f"{name} is not installed", hint=hint) from error
