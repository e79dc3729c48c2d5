"""Everything the release gate must catch, planted in a good run one at a time: the right verdict in the right words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

from segpipe.contract import Contract
from segpipe.errors import BackendError
from segpipe.rundir import RunDirectory
from segpipe.runtime.backends import load_opener
from segpipe.runtime.opening import run_contract
from segpipe.runtime.request import OpenOptions
from stages.graphs.halving import to_half
from stages.graphs.reading import to_bytes
from stages.validate.answers import Answer, Answered, Hop
from stages.validate.explain import explain_hop
from stages.validate.filling import hop_report
from stages.validate.gate import judge_labels
from stages.validate.half_graph import rounded_bytes
from stages.validate.hops import BackendAnswer
from stages.validate.inputs import Image
from stages.validate.judge import HopState, Judge, Setup
from stages.validate.stored import StoredReference
from stages.validate.suspects import suspect
from stages.validate.torch_hops import trained_reference
from tests.trained import edit_graph, larger_inside


@dataclass(frozen=True)
class Good:
    """A good run's parts, from which defective hops are made."""

    run: RunDirectory
    contract: Contract
    stored: StoredReference
    images: list[Image]

    def graph(self, name: str = "model.onnx") -> bytes:
        """One of its graphs."""
        return self.run.artifact_bytes("export", name)

    def runtime(self, graph: bytes, contract: Contract | None = None) -> Answer:
        """A graph through the runtime that production uses."""
        contract = contract or self.contract
        return BackendAnswer(load_opener("onnxruntime-cpu")(graph, contract, OpenOptions()), contract)

    def judge(self, answer: Answer, exact: bool = True, images: list[Image] | None = None) -> tuple[Judge, HopState]:
        """Hold an answer to the stored reference."""
        hop = Hop("planted", "export", "model.onnx", "0" * 64, "onnxruntime-cpu", "cpu", answer, exact)
        judge = Judge(self.setup, self.stored, [hop])
        for image in images or self.images:
            judge.add(image)
        judge.finish()
        return judge, judge.states["planted"]

    @property
    def setup(self) -> Setup:
        """As the run's own gate was set up."""
        return Setup(self.contract, self.stored.index.settings, self.stored.index.batches)


@pytest.fixture(scope="module")
def good(trained_run: Path) -> Good:
    run = RunDirectory(trained_run)
    stored = StoredReference(run)
    return Good(run, run_contract(run), stored, stored.images())


def embedded(good: Good, **changes: Any) -> Answer:
    """The graph with a contract that was changed at deployment."""
    contract = Contract.model_validate({**good.contract.model_dump(), **changes})
    return good.runtime(edit_graph(good.graph(), lambda _, values: values, contract), contract)


def wrong_mean(good: Good) -> Answer:
    return embedded(good, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def bgr(good: Good) -> Answer:
    return embedded(good, channel_order="bgr")


def align_corners(good: Good) -> Answer:
    """Upsampling with the corners aligned: scores are right, masks are stretched."""
    inner = good.runtime(good.graph())

    def answer(frames: Sequence[np.ndarray]) -> list[Answered]:
        found = []
        for frame, answered in zip(frames, inner(frames), strict=True):
            assert answered.scores is not None
            scores = torch.from_numpy(answered.scores)[None]
            full = F.interpolate(scores, frame.shape[:2], mode="bilinear", align_corners=True)
            found.append(Answered(full[0].argmax(0).numpy().astype(np.uint8), answered.scores))
        return found

    return answer


def shifted(good: Good) -> Answer:
    """Masks one pixel aside."""
    inner = good.runtime(good.graph())
    return lambda frames: [replace(a, mask=np.roll(a.mask, 1, axis=1)) for a in inner(frames)]


def swapped_class(good: Good) -> Answer:
    def change(name: str, values: np.ndarray) -> np.ndarray:
        return values[[0, 2, 1, 3, 4]] if name.startswith("head.") else values

    return good.runtime(edit_graph(good.graph(), change))


def scaled_layer(good: Good) -> Answer:
    return good.runtime(edit_graph(good.graph(), lambda n, v: v * 1.01 if n == "down2.3.weight" else v))


def scaled_head(good: Good) -> Answer:
    graph = edit_graph(good.graph("model.fp16.onnx"), lambda n, v: v * 1.01 if n.startswith("head.") else v)
    return good.runtime(graph)


def fp16_overflow(good: Good) -> Answer:
    """The same network in FP32, with activations of about 1e5, turned to FP16."""
    model = onnx.load_model_from_string(edit_graph(good.graph(), larger_inside))
    return good.runtime(rounded_bytes(to_bytes(to_half(model, set()))))


def nan_in_one_pixel(good: Good) -> Answer:
    inner = good.runtime(good.graph())
    bad = good.images[3].frame

    def answer(frames: Sequence[np.ndarray]) -> list[Answered]:
        answers = inner(frames)
        for frame, answered in zip(frames, answers, strict=True):
            if answered.scores is not None and np.array_equal(frame, bad):
                answered.scores[2, 5, 7] = np.nan
        return answers

    return answer


def another_checkpoint(good: Good) -> Answer:
    rng = np.random.default_rng(0)

    def change(_: str, values: np.ndarray) -> np.ndarray:
        return values + rng.normal(size=values.shape) * 0.3 * values.std() if values.ndim == 4 else values

    return good.runtime(edit_graph(good.graph(), change))


Plant = Callable[[Good], Answer]
DEFECTS: dict[str, tuple[Plant, bool, set[str], str]] = {
    "wrong mean and std": (wrong_mean, True, {"agreement", "relative_l2"}, "relative_l2"),
    "BGR for RGB": (bgr, True, {"agreement", "relative_l2"}, "red and blue look exchanged"),
    "align_corners flipped": (align_corners, True, {"flips_boundary"}, "flips_boundary"),
    "a shift of one pixel": (shifted, True, {"flips_boundary"}, "looks shifted by 0 rows and 1 columns"),
    "one class swapped": (swapped_class, True, {"flips_inside", "iou_drop"}, "'disc' and 'box' look exchanged"),
    "one layer scaled by 1.01": (scaled_layer, True, {"relative_l2"}, "relative_l2"),
    "FP16 head scaled by 1.01": (scaled_head, False, {"relative_l2"}, "scores look scaled by 1.0"),
    "1e5 in FP16": (fp16_overflow, False, {"non_finite"}, "NaN"),
    "NaN in one pixel": (nan_in_one_pixel, True, {"non_finite"}, "1 NaN, 0 Inf, first in shapes-val-0003"),
    "another checkpoint": (another_checkpoint, True, {"agreement", "relative_l2"}, "relative_l2"),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_fails_in_the_right_words(name: str, good: Good) -> None:
    plant, exact, wanted, words = DEFECTS[name]
    _, state = good.judge(plant(good), exact)
    suspicions = suspect(state, good.contract.classes)
    report = hop_report(state, good.setup, suspicions, ())
    failed = {check.name for check in report.checks if check.status == "failed"}
    said = "; ".join([*(check.line for check in report.checks if check.status == "failed"), *suspicions])
    print(f"| {name} | {report.status} | {', '.join(sorted(failed))} | {'; '.join(suspicions)} |")

    assert report.status == "failed"
    assert wanted <= failed
    assert words in said


def test_the_good_run_passes_every_hop(good: Good) -> None:
    half = good.runtime(rounded_bytes(good.graph("model.fp16.onnx")))

    for answer, exact in ((good.runtime(good.graph()), True), (half, False)):
        judge, state = good.judge(answer, exact)
        assert not state.failed(good.setup)
        assert suspect(state, good.contract.classes) == ()
        assert judge_labels(good.run, judge, good.setup)[0][0].status == "passed"


def test_wrong_preprocessing_is_told_from_a_wrong_network(good: Good) -> None:
    _, state = good.judge(wrong_mean(good))

    found = explain_hop(good.run, state, good.setup, trained_reference(good.run))

    assert found is not None
    assert "what differs is pre- or post-processing (mean and std" in found.lines()[0]


@pytest.mark.parametrize("step", [1, -1])
def test_labels_shifted_by_one_class_are_told(good: Good, step: int) -> None:
    def moved(image: Image) -> Image:
        if image.labels is None:
            return image
        classes = len(good.contract.classes)
        labels = np.where(image.labels < classes, (image.labels.astype(int) + step) % classes, image.labels)
        return replace(image, labels=labels.astype(np.uint8))

    judge, _ = good.judge(good.runtime(good.graph()), images=[moved(image) for image in good.images])
    found, words = judge_labels(good.run, judge, good.setup)

    assert found[0].status == "failed"
    assert "training recorded" in found[0].line()
    assert f"the labels look shifted by {step:+d} class" in words[0]


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


def test_nan_that_only_batches_give_fails(good: Good) -> None:
    inner = good.runtime(good.graph())

    def answer(frames: Sequence[np.ndarray]) -> list[Answered]:
        answers = inner(frames)
        scores = answers[-1].scores
        if len(frames) > 1 and scores is not None:
            scores[0, 0, 0] = np.nan
        return answers

    assert failures(good, answer) == ["batch_non_finite 1 (limit 0): failed (1 NaN, 0 Inf, first in a batch of 8)"]
