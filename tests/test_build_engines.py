"""Engines: really built by TensorRT for RTX, cancelled cleanly, refusals explained; timings read back."""

import importlib.util
import json
import logging
import platform
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from onnx import helper

from segpipe.errors import BackendError, BackendMissingError, BuildError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.trt import Flavour, installed_version, load, logger
from segpipe.runtime.trt.building import (
    BuildCancelledError,
    GraphRefusedError,
    Problem,
    ShapeRange,
    _start_timing_cache,
    build_engine,
)
from segpipe.runtime.trt.preflight import Here, require_fit
from stages import import_model
from stages.build.engines import _keep_timings, build_one, built_for, make_request
from stages.build.precision import island_nodes
from stages.build.problems import explained
from stages.build.progress import BuildProgress, shown
from stages.build.target import describe_target, timing_cache_path
from stages.config.file import load_config
from stages.config.root import BuildConfig
from stages.graphs.naming import NAME_SCOPES, SOURCE_LINE
from stages.graphs.reading import to_bytes
from stages.pipeline import Selection, run_stages
from tests.children import ROOT
from tests.small_builds import CONFIG, SHAPES, needs_rtx, request
from tests.tiny_graphs import conv, graph, plain, weights

HERE = Here(installed_version("tensorrt") or "not installed", "NVIDIA H100", (9, 0), platform.system())


class Recorder:
    """Notes the phases; stops when told."""

    def __init__(self, stop: bool = False) -> None:
        self.open: list[str] = []
        self.seen: list[str] = []
        self._stop = stop

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        self.seen.append(phase)
        self.open.append(phase)

    def go_on(self, phase: str, step: int) -> bool:
        return not self._stop

    def finish(self, phase: str) -> None:
        self.open.remove(phase)


@needs_rtx
def test_several_profiles_limits_and_levels_build() -> None:
    more = (*SHAPES, ShapeRange((2, 3, 16, 24), (8, 3, 16, 24), (8, 3, 16, 24)))
    wanted = make_request(
        "tensorrt-rtx", to_bytes(plain()), "image", more,
        CONFIG.model_copy(update={"workspace_mb": 64, "optimization_level": 0}),
    )  # fmt: skip

    built = build_engine("tensorrt-rtx", wanted)

    assert built.workspace_bytes == 64 * 2**20


@needs_rtx
def test_profile_that_the_graph_cannot_take_is_refused() -> None:
    wrong = (ShapeRange((1, 3, 32, 32), (1, 3, 32, 32), (1, 3, 32, 32)),)

    with pytest.raises(BuildError):
        build_engine("tensorrt-rtx", make_request("tensorrt-rtx", to_bytes(plain()), "image", wrong, CONFIG))


@needs_rtx
def test_unknown_compute_capability_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BuildError, match=r"does not build for SM70. build.compute_capabilities may hold 7.5"):
        build_engine("tensorrt-rtx", request(plain(), compute_capabilities=("7.0",)))


@needs_rtx
def test_progress_is_told_and_every_phase_ends() -> None:
    recorder = Recorder()

    build_engine("tensorrt-rtx", request(plain()), recorder)

    assert recorder.seen
    assert not recorder.open


@needs_rtx
def test_build_that_progress_stops_is_cancelled_and_the_next_one_works() -> None:
    with pytest.raises(BuildCancelledError):
        build_engine("tensorrt-rtx", request(plain()), Recorder(stop=True))

    assert build_engine("tensorrt-rtx", request(plain())).plan


@needs_rtx
def test_ctrl_c_during_a_build_becomes_keyboard_interrupt() -> None:
    class Interrupting(BuildProgress):
        def go_on(self, phase: str, step: int) -> bool:
            signal.raise_signal(signal.SIGINT)  # to this thread: others would hand it on later
            return super().go_on(phase, step)

    def build() -> None:
        with shown("tensorrt-rtx") as progress:
            progress.__class__ = Interrupting
            build_engine("tensorrt-rtx", request(plain()), progress)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build()

    assert signal.getsignal(signal.SIGINT) is before


@needs_rtx
def test_refused_operator_is_told_with_module_line_and_advice(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    pool = helper.make_node("MaxPool", ["a"], ["b", "indices"], name="pool", kernel_shape=[2, 2], strides=[2, 2])
    unpool = helper.make_node(
        "MaxUnpool", ["b", "indices"], ["logits"], name="unpool", kernel_shape=[2, 2], strides=[2, 2]
    )
    unpool.metadata_props.add(key=NAME_SCOPES, value="['', 'decoder', 'decoder.unpool', 'max_unpool']")
    unpool.metadata_props.add(key=SOURCE_LINE, value="nets/segnet.py:41")
    model = graph([conv("image", "w", "a"), pool, unpool], [weights("w", 4, 3, 3, 3)])

    told = r"MaxUnpool unpool \(module decoder.unpool, nets/segnet.py:41\): not"
    with pytest.raises(BuildError, match=told) as refused:
        build_one("tensorrt-rtx", request(model), CONFIG, frozenset())

    assert "unpool" in refused.value.hint


def test_refusal_without_a_known_node_still_says_what_is_known() -> None:
    error = GraphRefusedError("no", [Problem("", "Det", "not supported")])

    told = explained(error, to_bytes(plain()))

    assert "Det: not supported" in told.message
    assert "export.opset" in told.hint


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="tensorrt is installed here")
def test_missing_flavour_says_both_pip_lines() -> None:
    with pytest.raises(BackendMissingError, match=r"segpipe\[rtx\].*segpipe\[tensorrt\]"):
        build_one("tensorrt", request(plain()), CONFIG, frozenset())


WITHOUT_TENSORRT = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in {"tensorrt", "tensorrt_rtx"}:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, Absent())
from segpipe.cli import main
main()
"""


@pytest.mark.parametrize("targets", [["tensorrt-rtx"], ["tensorrt"], ["tensorrt-rtx", "tensorrt"]])
def test_build_command_without_either_flavour_says_both_pip_lines(targets: list[str], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(to_bytes(plain()))
    (tmp_path / "contract.toml").write_text('classes = ["a", "b", "c", "d"]\nnetwork_size = [16, 24]\n')
    run = import_model.run(tmp_path / "run", tmp_path / "model.onnx", tmp_path / "contract.toml").parents[2]
    run_stages(run, load_config(run), run, Selection("export", "export"))
    command = [sys.executable, "-c", WITHOUT_TENSORRT, "build", str(run), "--set", f"build.targets={targets}"]

    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert result.returncode == 1
    assert result.stderr.count("\n") == 2, result.stderr  # the error and its hint
    assert f"error: {targets[0]} cannot be imported" in result.stderr
    assert "pip install 'segpipe[rtx]'" in result.stderr
    assert "pip install 'segpipe[tensorrt]'" in result.stderr
    assert "build" not in RunDirectory(run).manifest.stages


class WithoutTimings:
    """TensorRT's builder config where no timing cache can be made of some bytes, or of any."""

    def __init__(self, refused: set[bytes]) -> None:
        self._refused = refused

    def create_timing_cache(self, data: bytes) -> str | None:
        """A cache, or None."""
        return None if data in self._refused else "cache"

    def set_timing_cache(self, cache: str, ignore_mismatch: bool) -> bool:
        """Takes no None."""
        assert cache == "cache"
        return True


@pytest.mark.parametrize(("refused", "cache"), [({b"damaged"}, "cache"), ({b"damaged", b""}, None)])
def test_a_timing_cache_that_cannot_be_made_is_gone_without(refused: set[bytes], cache: str | None) -> None:
    wanted = replace(request(plain()), timing_cache=b"damaged")

    assert _start_timing_cache(WithoutTimings(refused), wanted) == cache


@needs_rtx
def test_messages_are_told_once_and_do_not_grow_for_ever() -> None:
    trt = load("tensorrt-rtx")
    messages = logger(trt, quiet=True)
    for number in range(10_000):
        messages.log(trt.ILogger.ERROR, f"error {number}")
        messages.log(trt.ILogger.WARNING, f"warning {number}")

    kept = len(messages.errors), len(messages.warnings)
    assert max(kept) < 1000
    assert "error 9999" in messages.take_errors()
    assert messages.take_errors() == "no reason given"


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_what_the_build_records_passes_the_pre_flight_on_the_same_machine(flavour: Flavour) -> None:
    built = built_for(flavour, BuildConfig(compute_capabilities=()), "NVIDIA H100 (9.0)")

    require_fit(flavour, built, HERE, "runs/street")
    assert built.compute_capabilities == ("9.0",)


def test_what_the_build_records_tells_the_members_of_a_family_from_others() -> None:
    same = built_for("tensorrt", BuildConfig(hardware_compatibility="same-compute-capability"), "NVIDIA H100 (9.0)")
    ampere = built_for("tensorrt", BuildConfig(hardware_compatibility="ampere-plus"), "NVIDIA L4 (8.9)")
    alone = built_for("tensorrt", BuildConfig(), "NVIDIA H100 (9.0)")
    sibling, stranger = replace(HERE, gpu="NVIDIA H200"), replace(HERE, gpu="NVIDIA T4", capability=(7, 5))

    for built in (same, ampere):
        require_fit("tensorrt", built, sibling, "runs/street")
        with pytest.raises(BackendError, match="this is NVIDIA T4"):
            require_fit("tensorrt", built, stranger, "runs/street")
    with pytest.raises(BackendError, match="this is NVIDIA H200"):
        require_fit("tensorrt", alone, sibling, "runs/street")


def test_an_rtx_engine_is_recorded_for_the_named_gpus_not_for_the_builders() -> None:
    built = built_for("tensorrt-rtx", BuildConfig(compute_capabilities=("8.6", "12.0")), "NVIDIA H100 (9.0)")

    assert (built.compute_capabilities, built.gpu) == (("8.6", "12.0"), None)


def test_island_nodes_come_from_the_export_report() -> None:
    assert island_nodes(json.dumps({"islands": [{"node": "a", "reason": "x"}]}).encode()) == {"a"}


def test_timings_are_read_back_by_the_next_build_for_the_same_gpu_and_version_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here = describe_target("tensorrt")
    for other in ({**here, "version": "10.13"}, {**here, "gpu": "RTX 4090"}):
        _keep_timings(timing_cache_path(other), b"another machine's")

    assert _timings_of_next_build() == b""
    _keep_timings(timing_cache_path(here), b"ours")
    assert _timings_of_next_build() == b"ours"
    assert _timings_of_next_build(timing_cache=False) is None
    assert all(path.is_relative_to(tmp_path) for path in tmp_path.rglob("*.cache"))


def _timings_of_next_build(**changes: bool) -> bytes | None:
    config = CONFIG.model_copy(update=changes)
    return make_request("tensorrt", to_bytes(plain()), "image", SHAPES, config).timing_cache


def test_target_names_a_gpu_only_for_the_flavour_that_measures_on_it() -> None:
    assert "gpu" in describe_target("tensorrt")
    assert "gpu" not in describe_target("tensorrt-rtx")
    assert "gpu" in describe_target("tensorrt-rtx", here=True)
