"""Everything the release gate must catch gets the right verdict in the right words, and what is honest passes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segpipe.artifacts import Precision
from segpipe.errors import BackendError
from stages.config.root import Limits, ValidateConfig
from stages.validate.explaining.explain import explain_hop
from stages.validate.explaining.suspects import suspect
from stages.validate.hops.hop import Answer, Answered, Hop
from stages.validate.hops.margins import margins_at
from stages.validate.hops.pytorch import Reference, trained_reference
from stages.validate.judging.gate import judge_labels
from stages.validate.judging.judge import Judge
from stages.validate.judging.rules import ALLOWED
from tests.good_run import Good
from tests.planted import DEFECTS, honest, wrong_mean
from tests.planted_table import REFUSED, judged, refused, shifted_labels


@pytest.fixture(scope="module")
def good(trained_run: Path) -> Good:
    return Good.of(trained_run)


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_fails_in_the_right_words_and_none_passes(name: str, good: Good) -> None:
    row = judged(good, name)

    assert row.as_wanted, row


@pytest.mark.parametrize("name", REFUSED)
def test_a_defect_of_the_records_is_refused_in_the_right_words(name: str, trained_copy: Path) -> None:
    row = refused(trained_copy, name)

    assert row.as_wanted, row


@pytest.mark.parametrize("step", [1, -1])
def test_labels_shifted_by_one_class_are_told(good: Good, step: int) -> None:
    row = shifted_labels(good, step)

    assert row.as_wanted, row


def test_the_good_run_raises_no_suspicion(good: Good) -> None:
    judge, state = good.judge(honest(good))

    assert suspect(state, good.contract) == ()
    assert judge_labels(good.run, judge, good.setup)[0][0].status == "passed"


def test_wrong_preprocessing_is_told_from_a_wrong_network(good: Good) -> None:
    _, state = good.judge(wrong_mean(good))

    found = explain_hop(good.run, state, good.setup, trained_reference(good.run))

    assert found is not None
    assert "what differs is pre- or post-processing (mean and std" in found.lines()[0]


@pytest.mark.parametrize("precision", [name for name in ALLOWED if name not in {"fp32", "tf32", "fp8", "int8"}])
def test_what_fewer_bits_make_of_a_good_graph_is_not_blamed_on_what_lies_around_it(
    good: Good, precision: Precision
) -> None:
    _, state = good.judge(wrong_mean(good))  # differs, though every layer agrees
    state.hop = replace(state.hop, precision=precision)

    found = explain_hop(good.run, state, good.setup, trained_reference(good.run))

    assert found is not None
    assert f"the FP32 graph agrees layer by layer: what differs is the backend's {precision}" in found.lines()[0]
    assert "pre-" not in found.lines()[0]


def near_tie(good: Good) -> Answer:
    """One pixel of each image flips, where the network hardly decides."""
    inner = good.runtime(good.graph())

    def answer(frames: Sequence[np.ndarray]) -> list[Answered]:
        found = inner(frames)
        for one in found:
            pixels = np.arange(one.mask.size)
            at = np.unravel_index(
                margins_at(one.scores, one.mask.shape, good.contract, pixels).argmin(), one.mask.shape
            )
            one.mask[at] = (one.mask[at] + 1) % len(good.contract.classes)
        return found

    return answer


def test_narrow_margins_are_not_blamed_on_preprocessing(good: Good) -> None:
    _, state = good.judge(near_tie(good), exact=False)
    strict = ValidateConfig(limits=Limits(min_agreement=1.0))

    found = explain_hop(good.run, state, replace(good.setup, settings=strict), trained_reference(good.run))

    assert found is not None
    assert "masks flip where the network itself hardly decides" in found.lines()[0]
    assert "pre-" not in found.lines()[0]


@pytest.mark.parametrize(
    ("precision", "words"),
    [("bf16", "the backend's bf16"), ("fp16", "the backend's fp16"), ("tf32", "the backend's arithmetic")],
)
def test_a_hop_of_an_imported_graph_is_explained_too(good: Good, precision: Precision, words: str) -> None:
    _, state = good.judge(wrong_mean(good))
    state.hop = replace(state.hop, precision=precision)

    found = explain_hop(good.run, state, good.setup, Reference("ONNX FP32", honest(good), None))

    assert found is not None
    assert f"the reference runs the same graph: what differs is {words}" in found.lines()[0]


def test_an_answer_that_differs_the_second_time_is_reported(good: Good) -> None:
    inner, rng = good.runtime(good.graph()), np.random.default_rng(0)

    def unsteady(frames: Sequence[np.ndarray]) -> list[Answered]:
        return [
            replace(a, scores=None if a.scores is None else a.scores + rng.normal(size=a.scores.shape) * 1e-6)
            for a in inner(frames)
        ]

    _, state = good.judge(unsteady)
    _, steady = good.judge(inner)

    assert not state.repeats[0].same
    assert state.repeats[0].largest_difference > 0
    assert steady.repeats[0].same


def test_a_batch_that_mixes_its_frames_up_fails(good: Good) -> None:
    inner = good.runtime(good.graph())
    _, state = good.judge(lambda frames: inner(frames)[::-1])

    failed = [check.name for check in state.checks(good.setup) if check.status == "failed"]
    assert failed == ["batch_agreement", "batch_relative_l2"]


def failures(good: Good, answer: Answer) -> list[str]:
    """One line a failed limit."""
    _, state = good.judge(answer)
    return [check.line() for check in state.checks(good.setup) if check.status == "failed"]


def test_an_image_that_a_hop_refuses_fails_it(good: Good) -> None:
    inner, bad = good.runtime(good.graph()), good.images[2].frame

    def refusing(frames: Sequence[np.ndarray]) -> list[Answered]:
        if any(np.array_equal(frame, bad) for frame in frames):
            raise BackendError("out of memory", hint="use less")
        return inner(frames)

    assert failures(good, refusing)[0].startswith("unanswered 1 (limit 0): failed (shapes-val-0002: out of memory")


def test_a_mask_of_another_size_fails(good: Good) -> None:
    inner = good.runtime(good.graph())

    found = failures(good, lambda frames: [replace(a, mask=a.mask[1:]) for a in inner(frames)])
    assert found[0].startswith("unanswered 1 (limit 0): failed (shapes-val-0000: masks are [(47, 80)] for frames of")


def test_scores_that_are_kept_back_fail(good: Good) -> None:
    inner = good.runtime(good.graph())

    found = failures(good, lambda frames: [replace(a, scores=None) for a in inner(frames)])
    assert found[0].startswith("relative_l2 inf")


def test_a_hop_that_fails_on_the_first_image_again_is_told_without_batches(good: Good) -> None:
    inner, asked = good.runtime(good.graph()), []

    def tiring(frames: Sequence[np.ndarray]) -> list[Answered]:
        asked.append(frames)
        if len(asked) > 1:
            raise BackendError("out of memory", hint="use less")
        return inner(frames)

    hop = Hop("tired", "export", "model.onnx", "0" * 64, "onnxruntime-cpu", "cpu", tiring, "tf32")
    judge = Judge(replace(good.setup, batches=()), good.stored, [hop])
    judge.add(good.images[0])
    judge.finish()

    assert judge.states["tired"].measured.unanswered.startswith("the first image again: out of memory")


def test_nan_that_only_batches_give_fails(good: Good) -> None:
    inner = good.runtime(good.graph())

    def answer(frames: Sequence[np.ndarray]) -> list[Answered]:
        answers = inner(frames)
        scores = answers[-1].scores
        if len(frames) > 1 and scores is not None:
            scores[0, 0, 0] = np.nan
        return answers

    assert failures(good, answer) == ["batch_non_finite 1 (limit 0): failed (1 NaN, 0 Inf, first in a batch of 8)"]
