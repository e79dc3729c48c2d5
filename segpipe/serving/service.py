"""Service: one picture in, one answer out, by whichever model serves; and what is told about it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from fastapi import HTTPException, Response

from segpipe.errors import InputError
from segpipe.runtime.frames import pixel_limit, pixels_of
from segpipe.serving.answers import Kind
from segpipe.serving.line import FullError, GoneError, Line
from segpipe.serving.metrics import Metrics
from segpipe.serving.models import Models
from segpipe.serving.shadowing import ShadowCollector

_GONE = 499
_SMALLER = "send a smaller picture, or start with a larger --max-megapixels"


@dataclass(frozen=True)
class Made:
    """An answer's bytes, and how they came about."""

    body: bytes
    artifact: str
    mask: str
    """What the mask's bytes are: type, height and width."""
    milliseconds: dict[str, float]


class Service:
    """Answers from one event loop; the work runs in the line's threads."""

    def __init__(self, models: Models, line: Line, metrics: Metrics) -> None:
        self.models, self.line, self.metrics = models, line, metrics
        self.draining = False
        metrics.collect_from(ShadowCollector(lambda: models.current))
        metrics.watch("segpipe_queue_depth", "Pictures that wait for a thread.", lambda: line.waiting)
        metrics.watch("segpipe_ready", "1 once a model is loaded and warm.", lambda: self.is_ready)

    @property
    def is_ready(self) -> bool:
        """Whether pictures are taken: a model is loaded and warm, and nobody has asked us to end."""
        return self.models.current is not None and not self.draining

    def describe(self) -> dict[str, Any]:
        """For /model."""
        return self.models.describe()

    async def answer(self, picture: bytes, kind: Kind, left: Callable[[], Awaitable[object]]) -> Response:
        """The picture's answer, or the status that says why there is none."""
        if self.models.current is None:
            raise HTTPException(503, "the model is being opened: /readyz tells when it is", {"retry-after": "1"})
        asked = perf_counter()
        try:
            made = await self.line.run(lambda: self._make(picture, kind, asked), left)
        except FullError as full:
            wait = str(full.retry_after_s)
            raise HTTPException(429, f"{self.line.queue} pictures wait already", {"retry-after": wait}) from None
        except GoneError:
            return Response(status_code=_GONE)
        except InputError as error:
            raise HTTPException(422, str(error)) from None
        self.metrics.time_stages(made.milliseconds, made.artifact)
        headers = {"x-segpipe-artifact": made.artifact, "x-segpipe-mask": made.mask, "vary": "accept"}
        headers["server-timing"] = ", ".join(f"{name};dur={ms:.2f}" for name, ms in made.milliseconds.items())
        return Response(made.body, media_type=kind.name, headers=headers)

    def _make(self, picture: bytes, kind: Kind, asked: float) -> Made:
        """In a thread."""
        times = [asked, perf_counter()]
        with self.models.lease() as model:
            segmenter = model.segmenter
            fits = pixel_limit(segmenter.max_pixels, _SMALLER)
            frame = pixels_of(picture, segmenter.contract, "rgb", fits)
            times.append(perf_counter())
            result = segmenter.detail(frame)
            times.append(perf_counter())
            body = kind.make(result, frame)
            times.append(perf_counter())
        names = ("wait", "decode", "segment", "encode")
        spent = {name: 1000 * (to - at) for name, at, to in zip(names, times, times[1:], strict=False)}
        return Made(body, segmenter.artifact_sha256, _described(result.mask), spent)


def _described(mask: Any) -> str:
    height, width = np.shape(mask)
    return f"{mask.dtype} {height}x{width}"
