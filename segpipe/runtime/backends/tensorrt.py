"""TensorRT in both flavours: the whole frame on the GPU."""

import platform

from segpipe.artifacts import ARTIFACTS
from segpipe.contract.schema import FrameContract
from segpipe.runtime.cuda.backend import GpuBackend
from segpipe.runtime.cuda.driver_library import driver_version
from segpipe.runtime.cuda.kernels import Kernels
from segpipe.runtime.cuda.lane import Parts
from segpipe.runtime.cuda.opening import open_device
from segpipe.runtime.request import OpenOptions
from segpipe.runtime.trt import Flavour, version
from segpipe.runtime.trt.kernel_cache import kernel_cache_file
from segpipe.runtime.trt.preflight import Here, require_fit
from segpipe.runtime.trt.running import TrtEngine

_LANES = 8  # threads that run at once; each takes an execution context's memory


def open(artifact: bytes, contract: FrameContract, options: OpenOptions) -> GpuBackend:
    """Open an engine: TensorRT's runs on the GPU it was built on, one for RTX on the compute capabilities it is for."""
    flavour: Flavour = "tensorrt-rtx" if ARTIFACTS[options.name].backend == "tensorrt-rtx" else "tensorrt"
    installed = version(flavour)  # before the GPU is touched: a missing package is the commonest reason
    device = open_device(options.device, options.cuda)
    here = Here(installed, device.name, device.capability, platform.system())
    require_fit(flavour, options.built_for, here, options.run)
    cache = kernel_cache_file(artifact, installed, device.name, driver_version())
    with device.current():
        engine = TrtEngine(flavour, artifact, contract, options.built_for, cache)
        kernels = Kernels(device, options.kernels)
    return GpuBackend(options.name, device, Parts(engine, contract, kernels), _LANES)
