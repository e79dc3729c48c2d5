"""What this machine can do: GPU, driver, TensorRT flavours, ONNX Runtime providers, and how to get what is missing."""

import importlib.util
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from segpipe import __version__
from segpipe.artifacts import ARTIFACTS, ON_CPU, Artifact
from segpipe.errors import BackendMissingError
from segpipe.installed import versions
from segpipe.processor import computes, instruction_set, wanted_sets
from segpipe.runtime import trt
from segpipe.runtime.compiled.chosen import kernels
from segpipe.runtime.cuda.driver_library import Gpu, driver_version, gpus, has_driver, load_driver


@dataclass(frozen=True)
class Finding:
    """One capability: whether it is there, in what version, and the next action when it is not."""

    name: str
    present: bool
    detail: str
    hint: str = ""


def examine() -> list[Finding]:
    """Look at everything; nothing missing is an error."""
    return [
        Finding("segpipe", True, f"{__version__} on Python {platform.python_version()}, {platform.platform()}"),
        _gpu(),
        _onnxruntime(),
        _tensorrt("TensorRT", "tensorrt", "pip install 'segpipe[tensorrt]' (builds on the GPU it runs on)"),
        _tensorrt("TensorRT for RTX", "tensorrt-rtx", "pip install 'segpipe[rtx]' (builds without a GPU)"),
        _package("cuda-python", "cuda.bindings", "cuda-bindings", _cuda_python_hint()),
        _package("PyCUDA", "pycuda", "pycuda", "pip install 'segpipe[pycuda]' (needs the CUDA toolkit and a driver)"),
        _package("PyTorch", "torch", "torch", "pip install 'segpipe[pipeline]' (for training, export and validation)"),
        _package("Lightning", "lightning", "lightning", "pip install 'segpipe[pipeline]'"),
        _package("torch-pruning", "torch_pruning", "torch-pruning", "pip install 'segpipe[compress]' (for pruning)"),
        _package("PyAV", "av", "av", "pip install 'segpipe[video]' (for streams, cameras and H.264)"),
        _package(
            "faster-coco-eval",
            "faster_coco_eval",
            "faster-coco-eval",
            "pip install 'segpipe[instances]' (for `segpipe evaluate` of networks for things)",
        ),
        _package("ONNX", "onnx", "onnx", "pip install 'segpipe[pipeline]'"),
        _package("FastAPI", "fastapi", "fastapi", "pip install 'segpipe[serve]' (for `segpipe serve`)"),
        _package("PyArrow", "pyarrow", "pyarrow", "pip install 'segpipe[batch]' (for `segpipe batch`)"),
        _package("Ray", "ray", "ray", _ray_hint()),
        _package("rasterio", "rasterio", "rasterio", "pip install 'segpipe[geo]' (for `--geotiff`)"),
        _compiled(),
        *map(_backend, ARTIFACTS.values()),
    ]


def _compiled() -> Finding:
    """What was compiled for frames' pixels, where this was installed."""
    found = kernels()
    hint = (
        "" if found.masks else "install segpipe again where there is a C compiler; numpy gives the same masks, slower"
    )
    return Finding("compiled kernels", found.masks is not None, found.detail, hint)


def _backend(row: Artifact) -> Finding:
    """What `--backend` takes: whether it is installed and has the GPU or the instructions that it needs."""
    title = f"backend {row.name}"
    if not versions(*row.spec.packages):
        return Finding(title, False, "not installed", f"pip install 'segpipe[{row.spec.extra}]'")
    if row.needs_gpu and not has_driver():
        return Finding(title, False, "needs an NVIDIA GPU", f"{ON_CPU.name} needs none")
    if not row.needs_gpu and not computes(row.precision):
        lacking = f"this processor has none of {', '.join(wanted_sets(row.precision))}"
        return Finding(title, False, lacking, f"{row.backend} needs none")
    sets = "" if row.needs_gpu else instruction_set(row.precision)
    return Finding(title, True, f"computes in {row.precision}{f' with {sets}' if sets else ''}")


def _package(name: str, module: str, distribution: str, hint: str) -> Finding:
    """Whether a package is installed, without importing it."""
    try:
        present = importlib.util.find_spec(module) is not None
        detail = version(distribution) if present else "not installed"
    except (PackageNotFoundError, ModuleNotFoundError):
        return Finding(name, False, "not installed", hint)
    return Finding(name, present, detail, "" if present else hint)


def _ray_hint() -> str:
    return (
        "pip install 'segpipe[batch]' (for `segpipe batch` on several machines) or 'segpipe[serve,cluster]' (Ray Serve)"
    )


def _cuda_python_hint() -> str:
    """[cuda] also brings onnxruntime-gpu, which must not lie over the CPU's: they are one module."""
    wanted = "cuda-bindings" if versions("onnxruntime") else "'segpipe[cuda]'"
    return f"pip install {wanted} (for TensorRT and CUDA)"


def _tensorrt(name: str, flavour: trt.Flavour, hint: str) -> Finding:
    if not trt.is_installed(flavour):
        return Finding(name, False, "not installed", hint)
    return Finding(name, True, trt.installed_version(flavour) or "of unknown version")


def _onnxruntime() -> Finding:
    hint = "pip install 'segpipe[cpu]', or 'segpipe[cuda]' on a machine with an NVIDIA GPU (never both)"
    try:
        import onnxruntime
    except ImportError as error:
        return Finding("ONNX Runtime", False, f"not importable: {error}", hint)
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
    return Finding("ONNX Runtime", True, f"{onnxruntime.__version__}, built with: {providers}")


def _gpu() -> Finding:
    """Ask the driver itself: it needs no toolkit and no Python package."""
    try:
        driver = load_driver()
    except BackendMissingError:
        return Finding("NVIDIA GPU", False, "no driver", "install NVIDIA's driver; everything else works on the CPU")
    if (status := driver.cuInit(0)) != 0:
        return Finding("NVIDIA GPU", False, f"the driver refuses to start (cuInit gave {status})", "run nvidia-smi")
    found = gpus()
    names = "; ".join(map(_described, found)) or "none visible"
    number = driver_version()
    cuda = f"driver for CUDA {number // 1000}.{number % 1000 // 10}"
    return Finding("NVIDIA GPU", bool(found), f"{names}; {cuda}")


def _described(gpu: Gpu) -> str:
    major, minor = gpu.capability
    return f"{gpu.name} (compute capability {major}.{minor}, {gpu.memory_bytes / 2**30:.0f} GiB)"
