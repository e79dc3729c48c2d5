"""Whether a graph of 8 bits would hold to the gate's limits, on labelled frames that are neither the gate's nor
calibrated on. It decides how many layers stay in floats; the gate judges what comes of it by other frames."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from segpipe.contract.schema import Contract
from segpipe.runtime.backends import load_opener
from segpipe.runtime.request import OpenOptions, Outputs
from stages.config.root import ValidateConfig
from stages.export.calibration import Sample
from stages.measuring.masks import MaskComparison, MaskShape, Truth
from stages.results.quantisation import TriedGraph


@dataclass(frozen=True)
class Trial:
    """One choice of layers: how many stay in floats, what was measured, and which limits it fails."""

    kept: int
    agreement: float
    worst_image: float
    miou_drop: float | None
    """Upper end of the 95 % interval; None without labels."""
    failed: tuple[str, ...]

    def said(self) -> str:
        """In words."""
        drop = "no labels" if self.miou_drop is None else f"mIoU drop up to {self.miou_drop:.4f}"
        return f"agreement {self.agreement:.4f}, {drop}{', fails ' + ', '.join(self.failed) if self.failed else ''}"

    def report(self) -> TriedGraph:
        """For quantisation.json."""
        return TriedGraph(
            kept=self.kept,
            agreement=round(self.agreement, 5),
            worst_image=round(self.worst_image, 5),
            miou_drop_upper=None if self.miou_drop is None else round(self.miou_drop, 4),
            failed=self.failed,
        )


class Bench:
    """The FP32 graph's masks, and INT8 graphs beside them."""

    def __init__(
        self, full: bytes, contract: Contract, settings: ValidateConfig, samples: Callable[[], Iterable[Sample]]
    ) -> None:
        self._full, self._contract, self._settings, self._samples = full, contract, settings, samples
        self._truths: list[Truth] = []
        self._shape = MaskShape(
            len(contract.classes), settings.boundary_px, settings.large_margin, contract.unscored_numbers
        )

    def judge(self, graph: bytes, kept: int) -> Trial:
        """A graph for ONNX Runtime's CPU provider."""
        masks = MaskComparison(self._shape)
        answer = self._opened(graph)
        for truth, sample in zip(self._known(), self._samples(), strict=True):
            masks.add(truth, answer(sample.frame), sample.name)
        return self._trial(masks, kept)

    def _trial(self, masks: MaskComparison, kept: int) -> Trial:
        limits, drop = self._settings.limits, masks.miou_drop()
        agreement = 1 - masks.flips / max(1, masks.pixels)
        held = {
            "agreement": agreement >= limits.min_agreement_int8,
            "image_agreement": masks.worst_agreement >= limits.min_image_agreement_int8,
            "miou_drop": drop is None or drop.high <= limits.max_miou_drop_int8,
        }
        failed = tuple(name for name, holds in held.items() if not holds)
        return Trial(kept, agreement, masks.worst_agreement, None if drop is None else drop.high, failed)

    def _known(self) -> list[Truth]:
        if not self._truths:
            answer = self._opened(self._full)
            self._truths = [
                Truth.of(answer(sample.frame), sample.labels, None, self._shape) for sample in self._samples()
            ]
        return self._truths

    def _opened(self, graph: bytes) -> Callable[[Any], Any]:
        backend = load_opener("onnxruntime-cpu")(graph, self._contract, OpenOptions())
        return lambda frame: backend.infer([frame], Outputs())[0].mask
