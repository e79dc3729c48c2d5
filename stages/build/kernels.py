"""The runtime's CUDA kernels, compiled once a machine and put into every run directory. Needs no GPU."""

from segpipe.installed import versions
from segpipe.rundir.storage import sha256_of, write_atomically
from segpipe.runtime.cuda.compiling import CAPABILITIES, PTX, SOURCE, compile_kernel
from segpipe.user_cache import user_cache


def kernels_key() -> str:
    """What decides the machine code: the source and the compiler. Light."""
    compiler = "-".join(versions("cuda-bindings", "nvidia-cuda-nvrtc").values())
    return f"{sha256_of(SOURCE)[:16]}-{compiler}"


def compile_kernels() -> dict[str, bytes]:
    """File name -> machine code for every supported compute capability, and PTX for the others."""
    names = {f"kernels.sm_{capability}.cubin": capability for capability in CAPABILITIES}
    return {name: _compiled(name, target) for name, target in {**names, "kernels.ptx": PTX}.items()}


def _compiled(name: str, target: str) -> bytes:
    """From the user's cache, or compiled now: all of them take a good ten seconds."""
    path = user_cache("kernels", kernels_key()) / name
    if path.is_file():
        return path.read_bytes()
    data = compile_kernel(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    return data
