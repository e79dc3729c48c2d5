"""What every backend on a CPU is held to, in each precision of its rows: a new row of the table is tested here too."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segpipe import processor, testing
from segpipe.artifacts import ARTIFACTS, FP32_GRAPH, ON_CPU, Artifact, held_by
from segpipe.errors import BackendError, ContractError, InputError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.backends import load_opener
from segpipe.runtime.backends.host import HostBackend
from segpipe.runtime.request import OpenOptions, Outputs
from segpipe.runtime.segmenter import Segmenter
from segpipe.verdict import STAGE
from stages.results.gate import GateReport
from tests.cpu_rows import FIXED, PLAIN, ROWS, apart, opened, opens_here, parameters, scores_of
from tests.test_runtime_labels import SIZE, contract_of, label_network

SUMMATION = 1e-5
"""Relative L2 that another order of adding up may give in FP32."""
NARROW = 2**-7
"""The same in numbers of 8 bits: which kernel is taken, and so where they are rounded, may change with the shape."""
NARROWED = [row for row in ROWS if row.file == FP32_GRAPH and row.precision != "fp32"]
"""Rows whose backend itself computes the FP32 graph in fewer bits; INT8 graphs run everywhere."""
every_row = pytest.mark.parametrize("name", parameters(ROWS))
every_plain_row = pytest.mark.parametrize("name", parameters(PLAIN))


@pytest.fixture(params=parameters(ROWS))
def backend(request: pytest.FixtureRequest) -> Iterator[HostBackend]:
    backend = opened(request.param)
    yield backend
    backend.close()


@every_plain_row
def test_fp32_stays_fp32_also_where_the_processor_has_narrower_numbers(name: str) -> None:
    assert apart(name) < SUMMATION


@every_row
def test_a_device_names_the_instructions_of_its_precision(name: str) -> None:
    assert opened(name).device == processor.device_name(ARTIFACTS[name].precision)


@pytest.mark.parametrize("row", NARROWED, ids=lambda row: row.name)
def test_a_processor_without_the_instructions_is_told_what_is_missing_and_what_to_open(
    row: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(f"segpipe.runtime.backends.{row.spec.module}", exc_type=ImportError)
    monkeypatch.setattr(processor, "features", lambda: frozenset({"avx2"}))
    missing = ", ".join(processor.wanted_sets(row.precision))

    with pytest.raises(BackendError, match=rf"for {row.precision}: none of {missing}.* open backend {row.backend},"):
        opened(row.name)


@every_row
def test_a_network_that_gives_its_memory_back_answers_the_same(name: str) -> None:
    rng = np.random.default_rng(0)
    small, large = (list(rng.integers(0, 256, shape, np.uint8)) for shape in ((3, 64, 96, 3), (9, 160, 128, 3)))
    answers = []
    for frugal in (False, True):
        options = OpenOptions(frugal=frugal, threads=1, name=name, precision=ARTIFACTS[name].precision)
        backend = load_opener(name)(testing.make_onnx(testing.CONTRACT), testing.CONTRACT, options)
        given = [backend.infer(frames, Outputs(scores=True)) for frames in (small, small, large, small, large)]
        answers.append([part.scores for parts in given for part in parts])
        backend.close()

    allowed = NARROW if ARTIFACTS[name] in NARROWED else 0
    for again, usual in zip(*answers, strict=True):
        assert np.linalg.norm(again - usual) <= allowed * np.linalg.norm(usual)


def test_it_says_its_threads(backend: HostBackend) -> None:
    assert backend.describe()["threads"] == 2


def test_frames_of_all_sizes_and_batches_get_the_masks_they_show(backend: HostBackend) -> None:
    sizes = [(48, 80), (48, 80), (96, 64), (33, 47), *[(64, 64)] * 9]
    frames = [testing.make_frame(*size, seed) for seed, size in enumerate(sizes)]

    results = backend.infer([frame for frame, _ in frames], Outputs())

    usual = opened(ON_CPU.name).infer([frame for frame, _ in frames], Outputs())
    for result, wanted in zip(results, usual, strict=True):
        np.testing.assert_array_equal(result.mask, wanted.mask)


@every_plain_row
def test_a_network_of_one_frame_a_call_that_answers_labels_gets_many_frames(name: str) -> None:
    frames = [np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8) for seed in range(3)]

    with label_network(0, contract_of(mean=(0.0,) * 3, std=(1.0,) * 3), name) as segmenter:
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


@every_row
def test_a_tensor_of_a_size_that_the_network_does_not_take_is_refused(name: str) -> None:
    with pytest.raises(BackendError, match=r"does not take input float32 \(1, 3, 8, 8\): "):
        opened(name, FIXED).scores(np.zeros((1, 3, 8, 8), np.float32))


@every_row
def test_a_graph_with_an_operator_that_it_lacks_is_a_clear_error(name: str) -> None:
    graph = testing.make_onnx(testing.CONTRACT).replace(b"\x22\x04Conv", b"\x22\x04Conx")

    with pytest.raises(BackendError, match=r"cannot load the model: .*Conx") as told:
        load_opener(name)(graph, testing.CONTRACT, OpenOptions())
    assert "\n" not in str(told.value)


def test_a_closed_backend_says_so(backend: HostBackend) -> None:
    backend.close()
    backend.close()

    with pytest.raises(BackendError, match="closed"):
        backend.infer([testing.make_frame(64, 64)[0]], Outputs())


@pytest.mark.parametrize("threads", [-1, 5000, 2**31, "2", 1.5])
@every_row
def test_a_number_of_threads_that_makes_no_sense_is_refused(name: str, threads: Any) -> None:
    with pytest.raises(InputError, match="threads is"):
        opened(name, threads=threads)


def test_the_gate_judges_each_row_by_itself_and_what_it_passed_opens(trained_run: Path) -> None:
    run = RunDirectory(trained_run)
    hops = GateReport.model_validate_json(run.artifact_bytes(STAGE, "report.json")).hops
    rows = [row for row in held_by(run.manifest) if row in ROWS and row != ON_CPU and opens_here(row)]

    for row in rows:
        assert hops[row.name].device == processor.device_name(row.precision)
        assert hops[row.name].artifact_sha256 == run.recorded_sha256(run.artifact(row.stage, row.file))
        with Segmenter.open(trained_run, row.name) as segmenter:
            assert segmenter.describe()["backend"] == row.name
