"""The GPU path on a CUDA driver of host memory, in processes of its own: see tests/host_driver and tests/gpu."""

import subprocess
import sys

import pytest

from tests.children import PATIENCE_S, ROOT
from tests.host_device import kernel_library
from tests.host_driver.build import environment

COMMAND = (sys.executable, "-m", "pytest", "-q", "-rfEs", "-p", "no:cacheprovider", "-p", "no:randomly")


@pytest.mark.parametrize("folder", ["tests/host_driver", "tests/gpu"])
def test_the_gpu_path_holds_on_the_driver_of_host_memory(folder: str) -> None:
    kernel_library()

    result = subprocess.run(
        [*COMMAND, folder],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE_S,
    )

    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    assert " passed" in result.stdout
