"""Refusals before an engine is deserialised, and the GPU backends on a machine without a GPU."""

import importlib.util
from dataclasses import replace

import pytest

from segpipe.contract.schema import Contract
from segpipe.errors import BackendError, BackendMissingError
from segpipe.runtime.backends import load_opener
from segpipe.runtime.cuda.device import DeviceLostError, OutOfMemoryError, cuda_error
from segpipe.runtime.cuda.opening import open_device
from segpipe.runtime.request import BuiltFor, OpenOptions
from segpipe.runtime.trt import is_installed
from segpipe.runtime.trt.building import BuildRequest, ShapeRange, build_engine
from segpipe.runtime.trt.preflight import Here, refuse_invalid, require_fit
from segpipe.runtime.trt.running import TrtEngine
from segpipe.testing import CONTRACT, make_onnx
from tests.gpu_here import has_gpu

HERE = Here(version="10.16.1", gpu="NVIDIA H200", capability=(9, 0), system="Linux")
SHAPES = ShapeRange((1, 3, 64, 64), (1, 3, 64, 64), (1, 3, 64, 64))
BUILT = BuiltFor(version="10.16.1", gpu="NVIDIA H200", compute_capabilities=("8.6", "9.0"), system="Linux")


def test_the_same_machine_passes() -> None:
    require_fit("tensorrt", BUILT, HERE, "runs/street")
    require_fit("tensorrt-rtx", BUILT, HERE, "runs/street")


def test_a_packager_s_suffix_is_no_other_version() -> None:
    require_fit("tensorrt", replace(BUILT, version="10.16.1.post1"), HERE, "runs/street")


def test_unrecorded_facts_pass() -> None:
    require_fit("tensorrt", BuiltFor(), HERE, "runs/street")
    require_fit("tensorrt-rtx", BuiltFor(), HERE, "runs/street")


@pytest.mark.parametrize(
    ("built", "words"),
    [
        (replace(BUILT, version="10.13.3"), "TensorRT 10.13.3, 10.16.1 is installed"),
        (replace(BUILT, gpu="NVIDIA L4"), "for NVIDIA L4, this is NVIDIA H200"),
        (replace(BUILT, system="Windows"), "built on Windows, this is Linux"),
    ],
)
def test_a_foreign_tensorrt_engine_is_refused(built: BuiltFor, words: str) -> None:
    with pytest.raises(BackendError, match=words) as caught:
        require_fit("tensorrt", built, HERE, "runs/street")

    assert "segpipe build runs/street" in caught.value.hint


def test_tensorrt_for_rtx_is_asked_itself_which_gpus_it_runs_on() -> None:
    require_fit(
        "tensorrt-rtx", replace(BUILT, compute_capabilities=("8.6", "12.0"), version="1.6"), HERE, "runs/street"
    )


def test_a_version_compatible_engine_runs_on_later_versions_only() -> None:
    older = replace(BUILT, version="10.13.3", version_compatible=True)
    require_fit("tensorrt", older, HERE, "runs/street")
    require_fit("tensorrt", older, replace(HERE, version="11.4.0"), "runs/street")

    with pytest.raises(BackendError, match=r"10\.9\.0 is installed"):
        require_fit("tensorrt", older, replace(HERE, version="10.9.0"), "runs/street")


def test_every_problem_is_told_at_once() -> None:
    built = BuiltFor(version="10.13.3", gpu="NVIDIA L4", system="Windows")

    with pytest.raises(BackendError, match=r"Windows.*10\.13\.3.*L4"):
        require_fit("tensorrt", built, HERE, "runs/street")


def test_tensorrt_for_rtx_s_own_refusal_is_told() -> None:
    refuse_invalid("VALID", "", BUILT)
    refuse_invalid("SUBOPTIMAL", "unsupported_cc", BUILT)
    with pytest.raises(BackendError, match=r"built for 8\.6, 9\.0, cannot run here: unsupported_cc, wants CC 12"):
        refuse_invalid("INVALID", "unsupported_cc, wants CC 12", BUILT)


@pytest.mark.skipif(has_gpu(), reason="this machine has a driver")
def test_what_tensorrt_for_rtx_says_of_this_machine_is_told() -> None:
    if not is_installed("tensorrt-rtx"):
        pytest.skip("tensorrt-rtx is not installed")
    plan = build_engine("tensorrt-rtx", BuildRequest(make_onnx(CONTRACT), CONTRACT.input_name, [SHAPES], ["8.9"])).plan

    with pytest.raises(BackendError, match=r"built for 8\.9, cannot run here: .*GPU driver"):
        TrtEngine("tensorrt-rtx", plan, CONTRACT, BuiltFor(compute_capabilities=("8.9",)))
    with pytest.raises(BackendError, match="malformed_engine"):
        TrtEngine("tensorrt-rtx", b"not an engine" * 100, CONTRACT, BuiltFor())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("CUDA_ERROR_OUT_OF_MEMORY", OutOfMemoryError),
        ("CUDA_ERROR_ILLEGAL_ADDRESS", DeviceLostError),
        ("CUDA_ERROR_ECC_UNCORRECTABLE", DeviceLostError),
        ("CUDA_ERROR_LAUNCH_FAILED", DeviceLostError),
        ("CUDA_ERROR_INVALID_VALUE", BackendError),
    ],
)
def test_cuda_s_failures_keep_their_name(name: str, kind: type[BackendError]) -> None:
    error = cuda_error("cuMemcpy", name)

    assert type(error) is kind
    assert name in str(error)
    assert error.hint


def test_without_a_driver_opening_says_so() -> None:
    if has_gpu():
        pytest.skip("this machine has a driver")
    with pytest.raises(BackendMissingError, match="NVIDIA driver"):
        open_device(0, "cuda-python")


def test_without_pycuda_asking_for_it_names_the_install() -> None:
    if importlib.util.find_spec("pycuda"):
        pytest.skip("PyCUDA is installed")
    with pytest.raises(BackendMissingError, match=r"segpipe\[pycuda\]"):
        open_device(0, "pycuda")


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_opening_an_engine_without_gpu_or_package_is_a_clear_error(name: str) -> None:
    if has_gpu():
        pytest.skip("this machine has a driver")
    contract = Contract(network_size=(8, 8), classes=("a", "b"))

    with pytest.raises(BackendMissingError, match=r"driver|cannot be imported"):
        load_opener(name)(b"plan", contract, OpenOptions())
