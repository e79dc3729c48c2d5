"""The GPU suite's measuring, with what runs on a CPU in place of the GPU's contestants."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.gpu import cells, rivals
from benchmarks.gpu.graphs import Subject, make, make_all
from benchmarks.gpu.plan import Folders
from benchmarks.gpu.results import StepResult, SuiteResult, save
from benchmarks.gpu.runs import build_settings, usable_flavours
from benchmarks.gpu.steps import kernels as kernels_step
from benchmarks.gpu.steps.camvid import RECIPE
from segpipe.runtime.cuda.kernels import Kernels
from stages.config.file import FILE_NAME, load_config
from stages.models import reference
from tests.host_device import HostDevice
from tests.host_engine import IMAGE

SUBJECT = Subject("ddrnet23_slim", (64, 128))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> cells.Network:
    """A small network, exported."""
    work = tmp_path_factory.mktemp("work")
    make(SUBJECT, work)
    assert make_all([SUBJECT], work) == {}, "what is made is not made again"
    return cells.Network(SUBJECT.folder(work))


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_made_networks_are_what_contestants_open(network: cells.Network) -> None:
    with ExitStack() as stack:
        ours = cells._ours("onnxruntime-cpu", network.graph("fp32"), network.contract, stack)
        found = cells.measure({"ours": ours}, SUBJECT.size, 2)

    median, low, high = found["ours"]
    assert 0 < low <= median <= high


def test_a_rival_that_fails_is_named_and_the_others_go_on() -> None:
    def broken(frames: NDArray[np.uint8]) -> object:
        raise RuntimeError("CUDA out of memory")

    found = cells.measure({"broken": broken, "fine": lambda frames: frames.sum()}, (8, 8), 1)

    assert found["broken"] == "CUDA out of memory"
    assert len(found["fine"]) == 3


def test_pytorchs_rival_gives_the_definitions_masks(network: cells.Network) -> None:
    frames, module = noise(2, *SUBJECT.size, 3), network.module()
    rival = rivals.EndToEnd(module, network.contract, torch.float32).eval()

    with torch.inference_mode():
        masks = rival(torch.from_numpy(frames)).numpy()

    for frame, mask in zip(frames, masks, strict=True):
        assert (mask == reference.segment(module, frame, network.contract)).mean() > 0.999


def test_a_flavour_that_did_not_run_here_is_built_for_no_more(tmp_path: Path) -> None:
    found = {"tensorrt": {"agreement": 1.0}, "tensorrt-rtx": {"reached": "build", "why": "compute capability 9.0"}}
    step = StepResult(state="passed", seconds=1, figures=found)
    save(tmp_path, SuiteResult(started_utc="", steps={"flavours": step}))
    folders = Folders(tmp_path, tmp_path)

    assert usable_flavours(folders) == ["tensorrt"]
    assert build_settings(folders)[0] == "build.targets=['tensorrt']"


def test_the_camvid_recipe_is_a_config(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(RECIPE.read_bytes())
    folders = Folders(tmp_path, tmp_path)

    config = load_config(tmp_path, ["data.root=/data/camvid", "model.weights=/data/b.pth", *build_settings(folders)])

    assert (config.train.precision, config.build.compute_capabilities) == ("bf16", ())


def test_kernels_are_measured_on_memory_that_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, small in {"_LAUNCHES": 3, "_ROUNDS": 1, "_SETS": 2, "_COPY": 4096}.items():
        monkeypatch.setattr(kernels_step, name, small)
    device = HostDevice()  # notices writes past the end

    with device.current():
        found = kernels_step._measure(device, Kernels(device, IMAGE))

    assert found["pre"]["us"] > 0
    assert found["post"]["us"] > 0
    assert device.held == 0
