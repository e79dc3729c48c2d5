"""A good run's parts, and the hops that the release gate must catch, made of them by planting one defect each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from torch.nn import functional as F

from stages.graphs.halving import to_half
from stages.graphs.reading import to_bytes
from stages.validate.hops.hop import Answer, Answered
from stages.validate.hops.inputs import resized_beforehand
from stages.validate.hops.rounded import rounded_bytes
from tests.good_run import Good, decided, embedded
from tests.planted_around import (
    asymmetric_resize,
    gamma,
    mirrored,
    reversed_batches,
    reversed_means,
    softmax_for_logits,
    stale_buffer,
    stateful,
    turned,
)
from tests.trained import edit_graph, larger_inside


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


def eight_bits(name: str, values: np.ndarray) -> np.ndarray:
    """Weights of convolutions as one scale and 8 bits a tensor hold them."""
    if values.ndim != 4:
        return values
    step = np.abs(values.astype(np.float64)).max() / 127
    return np.round(values / step) * step


def int8_weights(good: Good) -> Answer:
    """The FP16 graph with weights that went through 8 bits."""
    return good.runtime(rounded_bytes(edit_graph(good.graph("model.fp16.onnx"), eight_bits)))


def rounded_resize(good: Good) -> Answer:
    """FP16 behind a resize to whole pixel values, as 8-bit libraries do it."""
    inner = good.runtime(rounded_bytes(good.graph("model.fp16.onnx")))

    def answer(frames: Sequence[np.ndarray]) -> list[Answered]:
        resized = [resized_beforehand(good.contract, frame) for frame in frames]
        found = inner([frame if small is None else small for frame, small in zip(frames, resized, strict=True)])
        return [decided(good.contract, one.scores, frame) for frame, one in zip(frames, found, strict=True)]

    return answer


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


def honest(good: Good) -> Answer:
    return good.runtime(good.graph())


def honest_half(good: Good) -> Answer:
    return good.runtime(rounded_bytes(good.graph("model.fp16.onnx")))


Plant = Callable[[Good], Answer]


@dataclass(frozen=True)
class Defect:
    """What is planted, whether the hop says that it computes in FP32, the limits that must fail, and the words."""

    plant: Plant
    exact: bool
    limits: frozenset[str]
    words: str = ""


MASKS = frozenset({"agreement", "relative_l2"})

DEFECTS = {
    "wrong mean and std": Defect(wrong_mean, True, frozenset({"agreement", "relative_l2"}), "relative_l2"),
    "BGR for RGB": Defect(bgr, True, frozenset({"agreement", "relative_l2"}), "red and blue look exchanged"),
    "align_corners flipped": Defect(align_corners, True, frozenset({"flips_boundary"}), "flips_boundary"),
    "a shift of one pixel": Defect(
        shifted, True, frozenset({"flips_boundary"}), "looks shifted by 0 rows and 1 columns"
    ),
    "one class swapped": Defect(
        swapped_class, True, frozenset({"flips_inside", "iou_drop"}), "'disc' and 'box' look exchanged"
    ),
    "one layer scaled by 1.01": Defect(scaled_layer, True, frozenset({"relative_l2"}), "relative_l2"),
    "FP16 head scaled by 1.01": Defect(scaled_head, False, frozenset({"relative_l2"}), "scores look scaled by 1.0"),
    "FP16 with weights of 8 bits": Defect(int8_weights, False, frozenset({"relative_l2"}), "relative_l2"),
    "FP16 behind a resize to 8 bits": Defect(
        rounded_resize, False, frozenset({"resize_response"}), "the resize looks rounded to whole pixel values"
    ),
    "an activation of 1e5 in FP16": Defect(fp16_overflow, False, frozenset({"non_finite"}), "NaN"),
    "NaN in one pixel of one image": Defect(
        nan_in_one_pixel, True, frozenset({"non_finite"}), "1 NaN, 0 Inf, first in shapes-val-0003"
    ),
    "an engine of another checkpoint": Defect(
        another_checkpoint, True, frozenset({"agreement", "relative_l2"}), "relative_l2"
    ),
    "frames through a gamma of 2.2": Defect(gamma, True, MASKS, "a tone curve looks applied"),
    "frames upside down": Defect(mirrored, True, MASKS, "frames or masks look mirrored top to bottom"),
    "frames turned by 180 degrees": Defect(turned, True, MASKS, "frames or masks look turned by 180 degrees"),
    "mean and std in another order": Defect(
        reversed_means, True, frozenset({"relative_l2"}), "mean and std look taken in the order [2, 1, 0]"
    ),
    "the frame before is answered": Defect(
        stale_buffer, True, MASKS, "each answer looks like that of the frame before"
    ),
    "every second answer is of BGR": Defect(stateful, True, MASKS, "it answers the same frame differently"),
    "batches in another order": Defect(
        reversed_batches, True, frozenset({"batch_agreement"}), "frames of a batch look exchanged: frame 0 got the"
    ),
    "softmax for logits": Defect(
        softmax_for_logits, True, frozenset({"relative_l2"}), "scores look like softmax of the reference's"
    ),
    "a resize without half-pixel centres": Defect(
        asymmetric_resize, True, frozenset({"relative_l2"}), "the resize looks asymmetric"
    ),
    "none: honest FP32": Defect(honest, True, frozenset()),
    "none: honest FP16": Defect(honest_half, False, frozenset()),
}
