"""Is the graph still the network? Both get the same tensors; what they answer must be equal to rounding."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from segpipe.contract.schema import FrameContract
from segpipe.errors import ExportError
from segpipe.runtime.backends.session import FAILURES, reason
from segpipe.runtime.trt.building import ShapeRange
from stages.graphs.reading import to_bytes
from stages.graphs.types import at_own_batch
from stages.tasks import offline_task_of

Tensors = Iterable[tuple[str, NDArray[Any]]]
"""What a tensor is called in messages, and the tensor."""
Network = Callable[[NDArray[Any]], NDArray[Any]]

LIMIT = 1e-4
"""Relative L2 error of the scores. Two FP32 implementations differ by 1e-7 to 1e-6; a wrong operator by over 1e-2."""
OWN_ROUNDING = 10.0
"""Deep networks that amplify rounding may differ by this many times what the last bit of their input alone changes.

ResNet101 with random weights is 4e-4 away from itself in float64, and as far when its input's last bits flip."""
CEILING = 1e-2
"""What no network's own rounding excuses: wrong operators begin here."""
LABELS_LIMIT = 1e-3
"""Share of labels that may differ where the network ends in an argmax: pixels whose scores tie."""
_MOST_PIXELS = 2**20  # of a random batch: more would only take longer


@dataclass
class Worst:
    """The greatest difference so far."""

    error: float = 0.0
    tensor: str = "nothing compared"
    compared: int = 0


def require_equal(reference: Network, candidate: Network, contract: FrameContract, tensors: Tensors) -> Worst:
    """Compare on every tensor; ExportError names the figures when they differ."""
    worst = Worst()
    labels = offline_task_of(contract).gives_labels
    for name, tensor in tensors:
        expected, found = _answer(reference, name, tensor), candidate(tensor)
        if not np.isfinite(expected).all():
            raise ExportError(
                f"on {name} {_shape(tensor)} the network itself answers NaN or Inf",
                hint="its weights or an operator (Log, Div, a variance of 0) are broken: look at the trained network",
            )
        error, limit = difference(expected, found, labels), LABELS_LIMIT if labels else LIMIT
        if not error <= limit and not labels:
            limit = max(limit, min(CEILING, OWN_ROUNDING * _own_rounding(reference, tensor, expected)))
        if not error <= limit:
            what = f"{error:.2%} of the labels differ" if labels else f"relative L2 error {error:.3g}"
            raise ExportError(
                f"the graph is not the network: on {name} {_shape(tensor)} {what} (limit {limit:.3g}), "
                f"largest difference {_largest(expected, found):.3g}",
                hint="export with another PyTorch or opset, and report the operator to its authors",
            )
        worst.compared += 1
        if error >= worst.error:
            worst.error, worst.tensor = error, f"{name} {_shape(tensor)}"
    return worst


def _answer(network: Network, name: str, tensor: NDArray[Any]) -> NDArray[Any]:
    try:
        return network(tensor)
    except FAILURES as error:  # PyTorch raises RuntimeError: a pyramid with nothing left to pool
        raise ExportError(
            f"the network does not take {name} {_shape(tensor)}: {reason(error)}",
            hint="give the shapes that it takes in build.profiles (height, width)",
        ) from error


def difference(expected: NDArray[Any], found: NDArray[Any], labels: bool) -> float:
    """Relative L2 error of scores, or the share of labels that differ. Other shapes and NaN are infinitely far."""
    if expected.shape != found.shape:
        return float("inf")
    if labels:
        return float((expected != found).mean())
    expected, found = expected.astype(np.float64), found.astype(np.float64)
    if not np.isfinite(expected).all() or not np.isfinite(found).all():
        return float("inf")
    return float(np.linalg.norm(expected - found) / (np.linalg.norm(expected) or 1.0))


def _own_rounding(reference: Network, tensor: NDArray[Any], expected: NDArray[Any]) -> float:
    """How far the reference's answer moves when the last bit of every input number does; 0 for coarser inputs."""
    if tensor.dtype != np.float32:
        return 0.0
    up = np.random.default_rng(0).random(tensor.shape) < 0.5
    nudged = np.nextafter(tensor, np.where(up, np.inf, -np.inf).astype(tensor.dtype))
    moved = difference(expected, reference(nudged), labels=False)
    return moved if np.isfinite(moved) else 0.0


def session(model: onnx.ModelProto, contract: FrameContract) -> Network:
    """A graph run by ONNX Runtime's CPU provider; a smaller batch than it fixes is filled. Of several outputs those
    that are compared, one behind the other along the channels."""
    loaded = onnxruntime.InferenceSession(to_bytes(model), providers=["CPUExecutionProvider"])

    def run(tensor: NDArray[Any]) -> NDArray[Any]:
        whole = at_own_batch(model, tensor)
        return joined(loaded.run([*contract.compared_names], {contract.input_name: whole}))

    return run


def joined(outputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Several outputs BxCxhxw as one; one as it is, and those of several sizes as one row of numbers."""
    if len({output.shape[2:] for output in outputs}) > 1:
        outputs = [output.reshape(len(output), -1, 1, 1) for output in outputs]
    return outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=1)


def random_tensors(contract: FrameContract, ranges: Sequence[ShapeRange]) -> Tensors:
    """Noise at the smallest, typical and largest shapes; batches are cut to what is quick."""
    rng = np.random.default_rng(0)
    for shape, name in {
        _affordable(shape): name
        for found in ranges
        for name, shape in (("largest", found.largest), ("typical", found.typical), ("smallest", found.smallest))
    }.items():
        if contract.input_dtype == "uint8":
            yield f"random input, {name} shape", rng.integers(0, 256, shape, np.uint8)
        else:
            yield f"random input, {name} shape", rng.standard_normal(shape, np.float32).astype(contract.input_dtype)


def _affordable(shape: tuple[int, ...]) -> tuple[int, ...]:
    batch, *rest = shape
    pixels = int(np.prod(rest)) // min(rest[0], rest[-1])
    return (max(1, min(batch, _MOST_PIXELS // max(pixels, 1))), *rest)


def _largest(expected: NDArray[Any], found: NDArray[Any]) -> float:
    if expected.shape != found.shape:
        return float("nan")
    return float(np.abs(expected.astype(np.float64) - found.astype(np.float64)).max(initial=0))


def _shape(tensor: NDArray[Any]) -> str:
    return "x".join(map(str, tensor.shape))
