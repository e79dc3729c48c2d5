"""Installs PyCUDA on a machine with neither a CUDA toolkit nor a driver: `python -m tests.host_driver.install_pycuda`.

PyCUDA comes as source. cuda.h lies in PyTorch's wheels, libcuda is only named, and the few lines that it wants of
cudaProfiler.h are below. What this makes runs on a GPU as well; random numbers (cuRAND) are left out. One minute.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from segpipe.runtime.cuda.compiling import include_folders

_PROFILER = """#pragma once
#include <cuda.h>
typedef enum CUoutput_mode_enum { CU_OUT_KEY_VALUE_PAIR = 0, CU_OUT_CSV = 1 } CUoutput_mode;
extern "C" CUresult cuProfilerInitialize(const char *, const char *, CUoutput_mode);
extern "C" CUresult cuProfilerStart(void);
extern "C" CUresult cuProfilerStop(void);
"""


def main() -> None:
    """Arguments go to `pip install`."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory(prefix="segpipe-pycuda-") as name:
        work = Path(name)
        only_source = ["--no-deps", "--no-binary=pycuda", "--no-build-isolation", "-d", name]
        subprocess.run([*pip, "download", "-q", "-c", "constraints.txt", *only_source, "pycuda"], check=True)
        with tarfile.open(next(work.glob("pycuda-*.tar.gz"))) as archive:
            archive.extractall(work, filter="data")
        source = next(path for path in work.glob("pycuda-*") if path.is_dir())
        _configure(source, work)
        install = [*pip, "install", "-q", "--no-build-isolation", *sys.argv[1:], str(source)]
        # It must name libcuda as needed, although an empty one gives it nothing: without a driver it is then no module.
        subprocess.run(install, check=True, env={**os.environ, "LDFLAGS": "-Wl,--no-as-needed"})


def _configure(source: Path, work: Path) -> None:
    """Where its build finds what it includes and links."""
    (work / "cudaProfiler.h").write_text(_PROFILER)
    (work / "empty.c").write_text("")
    library = ["gcc", "-shared", "-Wl,-soname,libcuda.so.1", "-o", str(work / "libcuda.so"), str(work / "empty.c")]
    subprocess.run(library, check=True)
    settings = {
        "CUDA_ENABLE_CURAND": False,
        "CUDA_ROOT": str(work),
        "CUDA_INC_DIR": [str(work), *include_folders()],
        "CUDADRV_LIB_DIR": [str(work)],
        "CXXFLAGS": ["-O1", "-g0", "-w"],
        "LDFLAGS": ["-s"],
    }
    (source / "siteconf.py").write_text("".join(f"{key} = {value!r}\n" for key, value in settings.items()))


if __name__ == "__main__":
    main()
