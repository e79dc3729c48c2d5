"""ONNX Runtime as an engine of the GPU path, on the CPU: what it reads from a graph, and how it fails."""

import gc
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from segpipe.contract.schema import Contract
from segpipe.errors import BackendError, BackendMissingError, ContractError
from segpipe.runtime.backends.onnxruntime_cuda import OrtEngine, open
from segpipe.runtime.request import OpenOptions
from tests.gpu_here import has_gpu
from tests.host_engine import conv_graph

CONTRACT = Contract(network_size=(8, 12), output_stride=4, classes=("a", "b", "c"))


def test_a_graph_for_another_contract_is_refused() -> None:
    other = CONTRACT.model_copy(update={"classes": ("a", "b", "d")})

    with pytest.raises(ContractError, match="classes"):
        OrtEngine(conv_graph(other), CONTRACT, "cpu", 0)


def test_bytes_that_are_no_graph_are_refused() -> None:
    with pytest.raises(BackendError, match="cannot load the model"):
        OrtEngine(b"not a graph", CONTRACT, "cpu", 0)


def test_a_wrong_input_is_refused_with_its_shape() -> None:
    context = OrtEngine(conv_graph(CONTRACT), CONTRACT, "cpu", 0).context()

    with pytest.raises(BackendError, match=r"\(1, 4, 8, 12\)"):
        context.set_shape((1, 4, 8, 12), 1)


def test_types_and_batches_come_from_the_graph() -> None:
    free = OrtEngine(conv_graph(CONTRACT, "float16"), CONTRACT, "cpu", 0)
    fixed = OrtEngine(conv_graph(CONTRACT, batch=4), CONTRACT, "cpu", 0)

    assert (free.input_dtype, free.output_dtypes) == ("float32", {"logits": "float16"})
    assert free.profiles[0].takes((1, 3, 8, 12))
    assert fixed.profiles[0].takes((4, 3, 8, 12))
    assert not fixed.profiles[0].takes((1, 3, 8, 12))


def test_contexts_of_a_stream_share_a_session_and_free_it() -> None:
    engine = OrtEngine(conv_graph(CONTRACT), CONTRACT, "cpu", 0)
    first, second = engine.context(), engine.context()

    shapes = [first.set_shape((1, 3, 8, 12), 5), second.set_shape((2, 3, 8, 12), 5)]
    assert shapes == [{"logits": (1, 3, 2, 3)}, {"logits": (2, 3, 2, 3)}]
    assert engine.session(5) is engine.session(5)

    del first, second
    gc.collect()
    assert not list(engine._sessions)


PRELOADED = """
import onnxruntime
from segpipe.runtime.backends.onnxruntime_cuda import preload_libraries
preload_libraries()
maps = open("/proc/self/maps").read()
print(onnxruntime.__file__, *(name for name in ("libcublasLt.so", "libcudart.so", "libcudnn.so") if name in maps))
"""


def test_cuda_s_libraries_are_found_where_onnxruntime_lies_elsewhere(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers() or not importlib.util.find_spec("nvidia"):
        pytest.skip("onnxruntime-gpu or NVIDIA's wheels are not installed")
    (tmp_path / "onnxruntime").symlink_to(Path(onnxruntime.__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(Path(__file__).parents[1])))}

    result = subprocess.run(
        [sys.executable, "-c", PRELOADED], env=environment, capture_output=True, text=True, check=True
    )

    file, *loaded = result.stdout.splitlines()[-1].split()
    assert Path(file).is_relative_to(tmp_path)
    assert loaded == ["libcublasLt.so", "libcudart.so", "libcudnn.so"], result.stdout


def test_opening_without_a_gpu_says_so() -> None:
    if has_gpu():
        pytest.skip("this machine has a driver")
    wanted = "driver" if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else "no CUDA provider"

    with pytest.raises((BackendError, BackendMissingError), match=wanted):
        open(conv_graph(CONTRACT), CONTRACT, OpenOptions())
