"""Real engines on a real GPU: what is recorded and kept of them, how long they take; and processes that use them."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from segpipe.runtime.cuda.driver_library import gpu_name
from segpipe.runtime.request import OpenOptions
from stages.build.engines import built_for
from stages.config.root import BuildConfig
from tests.frame_cases import MASK, contract_of, noise
from tests.gpu.engines import (
    CONTRACT,
    GRAPH,
    LARGEST,
    NAMES,
    Open,
    artifact_of,
    check,
    flavour_of,
    opened,
    ranges_of,
)
from tests.host_engine import conv_graph

pytestmark = pytest.mark.gpu
LATENCY_FACTOR = 2.0
"""Host to host against engine and copies by the GPU's clock, at 1024x2048. The goal is 1.2; beyond this is a fault."""

PROCESS = """
import sys
import numpy as np
from pathlib import Path
from segpipe.contract.schema import Contract
from segpipe.runtime.backends import load_opener
from segpipe.runtime.request import OpenOptions, Outputs
name, folder = sys.argv[1], Path(sys.argv[2])
contract = Contract.from_json((folder / "contract.json").read_text(), "test")
for _ in range(2):
    backend = load_opener(name)((folder / "artifact").read_bytes(), contract, OpenOptions())
    for _ in range(3):
        mask = backend.infer([np.zeros((40, 60, 3), np.uint8)], Outputs())[0].mask
    backend.close()
assert "torch" not in sys.modules
print(mask.shape)
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_process_without_pytorch_opens_runs_and_closes(name: str, tmp_path: Path, real_gpu: None) -> None:
    artifact = artifact_of(name, GRAPH, CONTRACT, ranges_of(CONTRACT, ((1, LARGEST),)))
    (tmp_path / "artifact").write_bytes(artifact)
    (tmp_path / "contract.json").write_text(CONTRACT.to_json())

    command = [sys.executable, "-c", PROCESS, name, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (result.returncode, result.stdout.strip()) == (0, "(40, 60)"), result.stderr


LOST = """
from segpipe.errors import BackendError
from segpipe.runtime.cuda.device import DeviceLostError
from segpipe.runtime.cuda.opening import open_device
from segpipe.runtime.cuda.kernels import Kernels, PackArguments
device = open_device()
with device.current():
    kernels, stream = Kernels(device, {}), device.create_stream()
    kernels.pack(1, PackArguments(16, 16, 1, 1, 1, 1000, 1000, 1, 0), stream)  # nobody's memory
    try:
        device.synchronize(stream)
    except DeviceLostError as error:
        print(error.hint)
    kernels.close()
"""


def test_a_lost_device_is_named_and_the_process_ends_by_itself(real_gpu: None) -> None:
    result = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr
    assert "the GPU was lost" in result.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_built_engine_passes_its_own_pre_flight(name: str, images: dict[str, bytes], real_gpu: None) -> None:
    flavour = flavour_of(name)
    if flavour is None:
        pytest.skip("a graph is for any machine")
    plan = artifact_of(name, GRAPH, CONTRACT, ranges_of(CONTRACT, ((1, LARGEST),)))
    built = built_for(flavour, BuildConfig(compute_capabilities=()), gpu_name())

    backend = opened(name, plan, CONTRACT, OpenOptions(kernels=images, built_for=built))

    check(backend, 1)
    backend.close()


def test_what_rtx_compiled_is_kept_and_found(
    images: dict[str, bytes], real_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plan = artifact_of("tensorrt-rtx", GRAPH, CONTRACT, ranges_of(CONTRACT, ((1, LARGEST),)))
    stamps = []
    for _ in range(2):
        backend = opened("tensorrt-rtx", plan, CONTRACT, OpenOptions(kernels=images))
        check(backend, 1)
        backend.close()
        stamps.append([(path.name, path.stat().st_mtime_ns) for path in (tmp_path / "segpipe/rtx").iterdir()])

    assert len(stamps[0]) == 1
    assert stamps[0] == stamps[1], "nothing was compiled anew"


def test_the_network_s_time_is_seen_on_our_stream(open_backend: Open, real_gpu: None) -> None:
    times = {}
    for size in ((32, 48), (1024, 2048)):
        contract = contract_of(network_size=size)
        backend = open_backend(conv_graph(contract), contract)
        times[size] = min(backend.time_steps(noise(contract, *size)).network_ms for _ in range(5))
        backend.close()

    assert times[1024, 2048] > 2 * times[32, 48]


def test_host_to_host_takes_little_more_than_engine_and_copies(open_backend: Open, real_gpu: None) -> None:
    contract = contract_of(network_size=(1024, 2048))
    backend = open_backend(conv_graph(contract), contract)
    frame = noise(contract, 1024, 2048)
    for _ in range(20):
        backend.infer([frame], MASK)
    taken = []
    for _ in range(50):
        started = time.perf_counter()
        backend.infer([frame], MASK)
        taken.append(1e3 * (time.perf_counter() - started))
    steps = backend.time_steps(frame)
    backend.close()

    copies = (steps.upload_ms or 0) + (steps.download_ms or 0)
    assert float(np.median(taken)) <= LATENCY_FACTOR * (steps.pre_ms + steps.network_ms + steps.post_ms + copies)
