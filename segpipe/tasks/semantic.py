"""Semantic segmentation, light: one output to a class for every pixel, tiles blended, pixels counted against labels."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from segpipe.contract.schema import Placement, SemanticContract
from segpipe.errors import InputError
from segpipe.metrics import MaskMeter
from segpipe.palette import Colours
from segpipe.result import Result
from segpipe.runtime.backends import Backend
from segpipe.runtime.confidence import confidence
from segpipe.runtime.cuda.job import GpuJob, Tensors
from segpipe.runtime.cuda.masks import Masks
from segpipe.runtime.frames import Order
from segpipe.runtime.postprocess import as_planes, postprocess
from segpipe.runtime.request import Decoded, Outputs
from segpipe.runtime.tiling import Progress, Tiling, segment_tiled


class SemanticTask:
    """Masks by a contract."""

    def __init__(self, contract: SemanticContract) -> None:
        self.outputs = (contract.output_name,)
        self._contract = contract

    def require(self, asked: Outputs) -> None:
        """Labels come without scores."""
        if self._contract.output_kind == "labels" and (asked.confidence or asked.scores):
            raise InputError("this network gives labels: no scores, no confidence", hint="ask for the mask alone")

    def decode(self, tensors: Mapping[str, NDArray[Any]], placement: Placement, asked: Outputs) -> Decoded:
        """Scores, or labels, to the mask and what else is asked for."""
        contract, scores = self._contract, tensors[self._contract.output_name]
        return Decoded(
            mask=postprocess(scores, contract, placement),
            confidence=confidence(scores, contract, placement) if asked.confidence else None,
            scores=as_planes(scores, contract).copy() if asked.scores else None,
        )

    def plain(self, answer: Decoded) -> NDArray[Any]:
        """The mask."""
        return answer.mask

    def result(self, answer: Decoded, palette: Colours, order: Order) -> Result:
        """The mask with its classes and colours."""
        return Result(answer.mask, self._contract, palette, answer.confidence, answer.scores, order)

    def tiled(self, backend: Backend, frame: NDArray[Any], tiling: Tiling, progress: Progress | None) -> NDArray[Any]:
        """The mask, from tiles whose scores are blended."""
        return segment_tiled(backend, self._contract, frame, tiling, progress)

    def on_device(self, job: GpuJob, placement: Placement, tensors: Tensors) -> Masks | None:
        """By the kernels for masks. They take one channel for raw scores: its probabilities are told on the host."""
        if self._contract.output_channels == 1 and job.outputs.confidence:
            return None
        return Masks(job, self._contract, placement, tensors)

    def meter(self) -> MaskMeter:
        """A confusion matrix."""
        return MaskMeter(self._contract.classes, self._contract.unscored)
