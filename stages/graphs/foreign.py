"""A stranger's ONNX: parsed, and run for the first time, in a process of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from segpipe.contract.schema import AnyContract, FrameContract, InstanceContract, read_any
from segpipe.cores import usable_cores
from segpipe.errors import InputError
from segpipe.serving.memory import free_bytes
from stages.graphs.apart import ChildLimits, allow_memory, call_apart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stages.config.root import BuildConfig

_CPU_S, _WALL_S = 120, 900  # 2 GB take some 20 s of work; the rest is for slow disks and busy machines
_FIRST_RUN_S = 300  # one frame of the smallest shape; the largest networks take a few seconds
_ENOUGH_BYTES = 2 << 30  # for Python, onnx and a graph without weights
_COPIES = 8  # of the weights, at the most: the file, the message, the checker's and the inliner's, our own bytes


def adopted_apart(model: Path, contract: AnyContract) -> bytes:
    """The bytes of a checked graph that fits the contract, from a file that may be anything."""
    size_bytes = model.stat().st_size if model.is_file() else 0
    limits = ChildLimits(_CPU_S, _WALL_S, _memory_for(size_bytes))
    return call_apart(adopted, str(model), limits, model=str(model), contract=contract.to_json())


def prove_runs(graph: Path, contract: AnyContract, build: "BuildConfig", limit_s: int = _FIRST_RUN_S) -> str:
    """One frame through ONNX Runtime: what it cannot run or end, and an answer against the contract, is refused.

    Returns what else looks wrong with the answer, mostly nothing."""
    limits = ChildLimits(limit_s * usable_cores(), limit_s, free_bytes())  # or the system ends whatever it likes
    arguments = {"graph": str(graph), "contract": contract.to_json(), "build": build.model_dump_json()}
    return call_apart(_run_once, f"{graph}, one frame of its smallest shape", limits, **arguments).decode()


def _run_once(graph: str, contract: str, build: str) -> bytes:
    """The child's part."""
    import numpy as np
    from onnxruntime import SessionOptions

    from segpipe.runtime.backends.session import FAILURES, open_session, reason
    from stages.config.root import BuildConfig
    from stages.graphs.answers import refuse_other_answer, remark_on
    from stages.graphs.input_shapes import shape_ranges
    from stages.graphs.things_answers import refuse_other_things, remark_on_things

    agreed = read_any(contract, graph)
    try:
        session = open_session(Path(graph).read_bytes(), SessionOptions(), "CPUExecutionProvider")
        sides = [side if isinstance(side, int) and side > 0 else None for side in session.get_inputs()[0].shape]
        shape = shape_ranges(agreed, BuildConfig.model_validate_json(build), sides)[0].smallest
        frame = _noise(shape, agreed)
        answers = session.run([*agreed.output_names], {agreed.input_name: frame})
    except FAILURES as error:
        raise InputError(
            f"{graph}: ONNX Runtime cannot run it: {reason(error)}",
            hint="export it again with an opset and operators that ONNX Runtime has; "
            "where it does not run a shape, list those that it runs in build.profiles",
        ) from error
    told = [np.asarray(answer) for answer in answers]
    if isinstance(agreed, InstanceContract):
        named = dict(zip(agreed.output_names, told, strict=True))
        refuse_other_things(frame, named, agreed, graph)
        return remark_on_things(named, agreed).encode()
    refuse_other_answer(frame, told[0], agreed, graph)
    return remark_on(told[0], agreed).encode()


def _noise(shape: tuple[int, ...], contract: FrameContract) -> "NDArray[Any]":
    """An input tensor that lights up whatever a network of zeros would hide."""
    import numpy as np

    rng = np.random.default_rng(0)
    if contract.input_dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape, np.float32).astype(contract.input_dtype)


def adopted(model: str, contract: str) -> bytes:
    """The child's part."""
    from stages.graphs.adopting import adopt
    from stages.graphs.reading import complete, parse, to_bytes, weights_bytes

    path = Path(model)
    graph = parse(path)
    allow_memory(_memory_for(weights_bytes(graph)))  # by now they are known not to be beyond all measure
    return to_bytes(adopt(complete(graph, path), read_any(contract, model), model))


def _memory_for(weights_bytes: int) -> int:
    return _ENOUGH_BYTES + _COPIES * weights_bytes
