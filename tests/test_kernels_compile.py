"""kernels.cu by NVRTC for every GPU we claim to support. Needs no GPU."""

import re

import pytest

from segpipe.errors import BackendError, BuildError
from segpipe.runtime.cuda.compiling import CAPABILITIES, PTX, SOURCE, compile_kernel, include_folders
from segpipe.runtime.cuda.kernels import pick_image
from stages.build.kernels import compile_kernels

pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")


def kernel_names() -> set[str]:
    """Every kernel that the macros of kernels.cu define."""
    source = SOURCE.read_text()
    pre = {f"pre_{name}" for name in re.findall(r"PRE\(\w+, \w+, (\w+)\)", source)} - {"pre_NAME"}
    scores = {
        f"{kind}_{name}" for name in re.findall(r" ?SCORES\(\w+, \w+, (\w+)\)", source) for kind in ("label", "mask")
    }
    nearest = {f"nearest_{name}" for name in re.findall(r"NEAREST\([\w ]+, \w+, (\w+)\)", source)}
    names = pre | scores | nearest | set(re.findall(r"KERNEL\((pack_\d|blend_float\d+)", source))
    return {name for name in names if not name.endswith("NAME")}


@pytest.fixture(scope="module", autouse=True)
def _headers() -> None:
    if not include_folders():
        pytest.skip("CUDA's headers are not installed")


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_kernels_compile_for_every_generation(capability: str) -> None:
    image = compile_kernel(capability)

    assert image.startswith(b"\x7fELF")
    assert all(name.encode() in image for name in kernel_names())


def test_the_build_stage_gets_a_file_for_each_target() -> None:
    files = compile_kernels()

    assert set(files) == {f"kernels.sm_{capability}.cubin" for capability in CAPABILITIES} | {"kernels.ptx"}
    assert pick_image(files, (9, 0)) == compile_kernel("90")


def test_ptx_holds_every_kernel() -> None:
    text = compile_kernel(PTX).decode()

    assert ".target sm_75" in text
    assert set(re.findall(r"\.entry (\w+)\(", text)) == kernel_names()
    assert len(kernel_names()) == 9 + 8 + 6 + 3 + 2


def test_a_mistake_in_the_source_is_told_with_its_line() -> None:
    with pytest.raises(BuildError, match=r"kernels\.cu\(1\)"):
        compile_kernel("90", 'extern "C" __global__ void broken() { nothing; }')


def test_the_gpu_s_own_code_is_picked_before_ptx() -> None:
    images = {"kernels.sm_80.cubin": b"80", "kernels.sm_86.cubin": b"86", "kernels.ptx": b"ptx"}

    assert pick_image(images, (8, 6)) == b"86"
    assert pick_image(images, (8, 7)) == b"86"  # binary code runs on later minors of its generation
    assert pick_image(images, (8, 0)) == b"80"
    assert pick_image(images, (9, 0)) == b"ptx"


def test_no_code_for_a_gpu_names_the_command() -> None:
    with pytest.raises(BackendError, match=r"capability 9\.0.*segpipe build"):
        pick_image({"kernels.sm_80.cubin": b"80"}, (9, 0))
