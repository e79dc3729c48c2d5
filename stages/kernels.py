"""The CUDA kernels of the runtime, compiled once into the run directory. Needs no GPU."""

from segpipe.runtime.cuda.compiling import CAPABILITIES, PTX, compile_kernel


def compile_kernels() -> dict[str, bytes]:
    """File name -> machine code for every supported compute capability, and PTX for the others."""
    names = {f"kernels.sm_{capability}.cubin": capability for capability in CAPABILITIES}
    return {name: compile_kernel(target) for name, target in {**names, "kernels.ptx": PTX}.items()}
