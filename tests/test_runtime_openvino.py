"""What OpenVINO alone does, beside what every backend on a CPU is held to (`tests/test_runtime_on_cpu.py`)."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segpipe import processor, testing
from segpipe.artifacts import ARTIFACTS, artifacts_of
from segpipe.contract.schema import METADATA_KEY, Contract
from segpipe.errors import BackendError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.backends import load_opener
from segpipe.runtime.opening import run_contract
from segpipe.runtime.request import OpenOptions
from stages.validate.hops.opening import OpenHops
from tests.children import PATIENCE_S, ROOT
from tests.cpu_rows import FIXED, apart, opened, parameters

openvino = pytest.importorskip("openvino")

NARROW = (1e-4, 2e-2)
"""Relative L2 that 8 bits of mantissa give: less means that it was not bf16, more that something else is wrong."""
needs_bf16 = pytest.mark.skipif(not processor.computes("bf16"), reason="this processor has no instructions for bf16")


@needs_bf16
def test_bf16_is_bf16_and_its_verdicts_name_the_instructions() -> None:
    low, high = NARROW

    assert low < apart("openvino-bf16") < high
    assert opened("openvino-bf16").device == processor.device_name("bf16") != "cpu"
    assert opened("openvino").device == "cpu"


@needs_bf16
def test_a_precision_that_was_not_asked_for_is_an_error() -> None:
    from segpipe.runtime.backends.openvino import _require_precision, core

    graph = core().read_model(testing.make_onnx(FIXED), b"")
    narrow = core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f16"})

    with pytest.raises(BackendError, match="asked for fp32 and computes in bf16"):
        _require_precision(narrow, "fp32")


@pytest.mark.parametrize("name", parameters(artifacts_of("openvino")))
def test_it_says_its_version_its_precision_and_its_threads(name: str) -> None:
    assert opened(name).describe() == {
        "openvino": openvino.__version__.partition("-")[0],
        "precision": ARTIFACTS[name].precision,
        "threads": 2,
    }


def test_a_graph_with_an_operator_that_it_lacks_is_a_clear_error() -> None:
    graph = testing.make_onnx(testing.CONTRACT).replace(b"\x22\x04Conv", b"\x22\x04Conx")

    with pytest.raises(BackendError, match=r"OpenVINO cannot load the model: .*Conx") as told:
        load_opener("openvino")(graph, testing.CONTRACT, OpenOptions())
    assert "src/" not in str(told.value)


def test_the_gate_says_why_a_processor_does_not_judge_bf16(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "features", lambda: frozenset({"avx2"}))
    run = RunDirectory(trained_run)

    with OpenHops(run, run_contract(run)) as hops:
        hops.open_deployed("openvino-bf16")

    assert hops.hops == []
    assert "no instructions for bf16" in hops.not_run[0].reason


def test_without_onnxruntime_auto_names_its_extra_though_openvino_has_no_verdict() -> None:
    script = """
import sys, tempfile
sys.modules["onnxruntime"] = None
from pathlib import Path
from segpipe import Segmenter, testing
from segpipe.errors import BackendMissingError
try:
    Segmenter.open(testing.make_run(Path(tempfile.mkdtemp()) / "run"), "cpu")
except BackendMissingError as error:
    print(error.hint)
"""
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT, timeout=PATIENCE_S
    ).stdout

    assert said == "pip install 'segpipe[cpu]'\n"


def test_without_openvino_everything_else_works_and_the_extra_is_named() -> None:
    script = """
import sys, tempfile
sys.modules["openvino"] = None
from pathlib import Path
from segpipe import Segmenter, testing
from segpipe.doctor import examine
from segpipe.errors import BackendMissingError
examine()
run = testing.make_run(Path(tempfile.mkdtemp()) / "run")
frame, mask = testing.make_frame(64, 96)
with Segmenter.open(run) as segmenter:
    assert segmenter.describe()["backend"] == "onnxruntime-cpu"
try:
    Segmenter.open(run, "openvino")
except BackendMissingError as error:
    print(error.hint)
"""
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT, timeout=PATIENCE_S
    ).stdout

    assert said.strip() == "pip install 'segpipe[openvino]'"


def written_as_ir(contract: Contract, path: Path) -> bytes:
    """OpenVINO's own format, in which weights may lie in other files; to a reader of ONNX one long unknown field."""
    from openvino import opset8

    image = opset8.parameter([-1, 3, -1, -1], np.float32, name=contract.input_name)
    image.output(0).set_names({contract.input_name})
    logits = opset8.relu(image)
    logits.output(0).set_names({contract.output_name})
    model = openvino.Model([opset8.result(logits)], [image], "disguised")
    model.set_rt_info(contract.to_json(), ["framework", METADATA_KEY])
    openvino.save_model(model, path)
    rest = b"\n-->" + path.read_bytes().split(b"?>", 1)[1]
    head = b"\n " + b"<?xml version='1.0'?>".ljust(28) + b"<!--"  # 32 bytes of field 1, then field 15 begins
    size = bytes([len(rest) & 127 | 128, len(rest) >> 7 & 127])
    assert len(rest) < 1 << 14
    return head + b"z" + size + rest


def test_only_onnx_is_opened_whatever_else_the_bytes_may_be_read_as(tmp_path: Path) -> None:
    from segpipe.runtime.backends.openvino import core

    disguised = written_as_ir(testing.CONTRACT, tmp_path / "graph.xml")

    assert core().read_model(disguised, b"").inputs
    with pytest.raises(BackendError, match="there is no graph"):
        load_opener("openvino")(disguised, testing.CONTRACT, OpenOptions(threads=1))


def test_what_is_kept_for_frame_sizes_is_bounded() -> None:
    from segpipe.runtime.backends.openvino import _settings

    assert _settings("fp32", 1, 1)["CPU_RUNTIME_CACHE_CAPACITY"] <= 500


CLOSED = """
import signal
from threading import Thread
from segpipe import testing
from segpipe.runtime.backends import load_opener
from segpipe.runtime.request import OpenOptions

def opened():
    return load_opener("openvino")(testing.make_onnx(testing.CONTRACT), testing.CONTRACT, OpenOptions(threads=1))

backends = [opened(), opened()]
backends[0].close()
closing = Thread(target=backends[1].close)
backends.clear()
closing.start()
closing.join()
del closing
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_interrupts_after_backends_were_closed_in_any_order_and_thread() -> None:
    """OpenVINO's stacks for signals, freed while they are in use, would end the process by SIGSEGV."""
    said = subprocess.run(
        [sys.executable, "-c", CLOSED], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S, check=False
    )

    assert said.stdout.split() == ["interrupted"], said.stderr
