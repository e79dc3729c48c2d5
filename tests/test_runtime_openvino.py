"""OpenVINO beside ONNX Runtime: the same contract of a CPU backend, in the precision that was asked for."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segpipe import processor, testing
from segpipe.artifacts import ARTIFACTS, held_by
from segpipe.contract.schema import METADATA_KEY, Contract
from segpipe.errors import BackendError, ContractError, InputError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.backends import Backend, load_opener
from segpipe.runtime.backends.host import HostBackend
from segpipe.runtime.opening import run_contract
from segpipe.runtime.request import OpenOptions, Outputs
from segpipe.runtime.segmenter import Segmenter
from segpipe.verdict import STAGE
from stages.results.gate import GateReport
from stages.validate.hops.opening import OpenHops
from tests.children import PATIENCE_S, ROOT
from tests.test_runtime_labels import SIZE, contract_of, label_network

openvino = pytest.importorskip("openvino")

NAMES = [name for name, row in ARTIFACTS.items() if row.backend == "openvino"]
FIXED = testing.CONTRACT.model_copy(update={"fit": "stretch", "network_size": (64, 96)})
SUMMATION = 1e-5
"""Relative L2 that another order of adding up may give in FP32."""
NARROW = (1e-4, 2e-2)
"""Relative L2 that 8 bits of mantissa give: less means that it was not bf16, more that something else is wrong."""
SCORES = Outputs(scores=True)
needs_bf16 = pytest.mark.skipif(not processor.computes("bf16"), reason="this processor has no instructions for bf16")


def opened(name: str, contract: Contract = testing.CONTRACT, threads: int = 2) -> HostBackend:
    backend = load_opener(name)(testing.make_onnx(contract), contract, OpenOptions(threads=threads))
    assert isinstance(backend, HostBackend)
    return backend


@pytest.fixture(params=[pytest.param(name, marks=[needs_bf16] if "bf16" in name else []) for name in NAMES])
def backend(request: pytest.FixtureRequest) -> Iterator[HostBackend]:
    backend = opened(request.param)
    yield backend
    backend.close()


@pytest.mark.parametrize("name", ["onnxruntime-cpu", "openvino"])
def test_a_network_that_gives_its_memory_back_answers_the_same(name: str) -> None:
    frames = list(np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), np.uint8))
    answers = []
    for frugal in (False, True):
        options = OpenOptions(frugal=frugal, threads=1)
        backend = load_opener(name)(testing.make_onnx(testing.CONTRACT), testing.CONTRACT, options)
        answers.append([decoded.scores for _ in range(2) for decoded in backend.infer(frames, SCORES)])
        backend.close()

    np.testing.assert_array_equal(answers[1], answers[0])


def scores_of(backend: Backend, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    scores = backend.infer([frame], SCORES)[0].scores
    assert scores is not None
    return scores


def apart(name: str) -> float:
    """Relative L2 between this backend's scores and those of ONNX Runtime in FP32."""
    frame, _ = testing.make_frame(96, 160)
    usual, other = scores_of(opened("onnxruntime-cpu"), frame), scores_of(opened(name), frame)
    return float(np.linalg.norm(other - usual) / np.linalg.norm(usual))


def test_fp32_stays_fp32_also_where_the_processor_has_narrower_numbers() -> None:
    assert apart("openvino") < SUMMATION


@needs_bf16
def test_bf16_is_bf16_and_its_verdicts_name_the_instructions() -> None:
    low, high = NARROW

    assert low < apart("openvino-bf16") < high
    assert opened("openvino-bf16").device == processor.device_name("bf16") != "cpu"
    assert opened("openvino").device == "cpu"


def test_a_processor_without_bf16_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "features", lambda: frozenset({"avx2"}))

    with pytest.raises(BackendError, match=r"for bf16: none of amx-bf16, avx512-bf16.* open backend openvino,"):
        opened("openvino-bf16")


@needs_bf16
def test_a_precision_that_was_not_asked_for_is_an_error() -> None:
    from segpipe.runtime.backends.openvino import _require_precision, core

    graph = core().read_model(testing.make_onnx(FIXED), b"")
    narrow = core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f16"})

    with pytest.raises(BackendError, match="asked for fp32 and computes in bf16"):
        _require_precision(narrow, "fp32")


def test_it_says_its_version_its_precision_and_its_threads(backend: HostBackend) -> None:
    told = backend.describe()

    assert told == {
        "openvino": openvino.__version__.partition("-")[0],
        "precision": ARTIFACTS[backend.name].precision,
        "threads": 2,
    }


def test_frames_of_all_sizes_and_batches_get_the_masks_they_show(backend: HostBackend) -> None:
    sizes = [(48, 80), (48, 80), (96, 64), (33, 47), *[(64, 64)] * 9]
    frames = [testing.make_frame(*size, seed) for seed, size in enumerate(sizes)]

    results = backend.infer([frame for frame, _ in frames], Outputs())

    usual = opened("onnxruntime-cpu").infer([frame for frame, _ in frames], Outputs())
    for result, wanted in zip(results, usual, strict=True):
        np.testing.assert_array_equal(result.mask, wanted.mask)


def test_a_network_of_one_frame_a_call_that_answers_labels_gets_many_frames() -> None:
    frames = [np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8) for seed in range(3)]

    with label_network(0, contract_of(mean=(0.0,) * 3, std=(1.0,) * 3), "openvino") as segmenter:
        masks = segmenter(frames)

    for frame, mask in zip(frames, masks, strict=True):
        np.testing.assert_array_equal(mask, frame.argmax(2))


def test_what_was_answered_stays_when_others_are_answered(backend: HostBackend) -> None:
    first, second = (testing.make_frame(64, 64, seed)[0] for seed in (1, 2))
    scores = scores_of(backend, first)
    kept = scores.copy()
    alone = backend.scores(np.zeros((1, 3, 64, 64), np.float32))
    kept_alone = alone.copy()

    backend.scores(np.ones((1, 3, 64, 64), np.float32))
    scores_of(backend, second)

    np.testing.assert_array_equal(scores, kept)
    np.testing.assert_array_equal(alone, kept_alone)


def test_a_tensor_that_is_given_is_left_as_it_is(backend: HostBackend) -> None:
    tensor = np.asarray(np.random.default_rng(0).standard_normal((2, 3, 64, 96)), np.float32)
    given = tensor.copy()

    backend.scores(tensor)

    np.testing.assert_array_equal(tensor, given)


def test_threads_that_meet_get_the_answers_of_threads_alone(backend: HostBackend) -> None:
    frames = [testing.make_frame(48 + 16 * (seed % 3), 80, seed)[0] for seed in range(24)]
    alone = [scores_of(backend, frame) for frame in frames]

    with ThreadPoolExecutor(6) as pool:
        met = list(pool.map(lambda frame: scores_of(backend, frame), frames * 2))

    for scores, wanted in zip(met, alone * 2, strict=True):
        assert np.linalg.norm(scores - wanted) <= SUMMATION * np.linalg.norm(wanted)


def test_a_graph_of_another_contract_is_refused(backend: HostBackend) -> None:
    with pytest.raises(ContractError, match="network_size"):
        load_opener(backend.name)(testing.make_onnx(FIXED), testing.CONTRACT, OpenOptions())


def test_a_tensor_of_a_size_that_the_network_does_not_take_is_refused() -> None:
    with pytest.raises(BackendError, match=r"does not take input float32 \(1, 3, 8, 8\): 'image' takes \[\?,3,64,96\]"):
        opened("openvino", FIXED).scores(np.zeros((1, 3, 8, 8), np.float32))


def test_a_graph_with_an_operator_that_it_lacks_is_a_clear_error() -> None:
    graph = testing.make_onnx(testing.CONTRACT).replace(b"\x22\x04Conv", b"\x22\x04Conx")

    with pytest.raises(BackendError, match=r"OpenVINO cannot load the model: .*Conx") as told:
        load_opener("openvino")(graph, testing.CONTRACT, OpenOptions())
    assert "src/" not in str(told.value)


def test_a_closed_backend_says_so(backend: HostBackend) -> None:
    backend.close()
    backend.close()

    with pytest.raises(BackendError, match="closed"):
        backend.infer([testing.make_frame(64, 64)[0]], Outputs())


def test_the_gate_judges_each_precision_by_itself_and_what_it_passed_opens(trained_run: Path) -> None:
    run = RunDirectory(trained_run)
    hops = GateReport.model_validate_json(run.artifact_bytes(STAGE, "report.json")).hops
    rows = [row for row in held_by(run.manifest) if row.name in NAMES and processor.computes(row.precision)]

    for row in rows:
        assert hops[row.name].device == processor.device_name(row.precision)
        with Segmenter.open(trained_run, row.name) as segmenter:
            assert segmenter.describe()["precision"] == row.precision
    assert {hop.artifact_sha256 for name, hop in hops.items() if name in NAMES} == {hops["onnx"].artifact_sha256}


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


@pytest.mark.parametrize("threads", [-1, 5000, 2**31, "2", 1.5])
@pytest.mark.parametrize("name", ["onnxruntime-cpu", "openvino"])
def test_a_number_of_threads_that_makes_no_sense_is_refused(name: str, threads: Any) -> None:
    with pytest.raises(InputError, match="threads is"):
        opened(name, threads=threads)


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
