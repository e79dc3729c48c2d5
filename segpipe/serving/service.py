"""Service: one picture in, one answer out, by whichever model serves; and what is told about it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from fastapi import HTTPException, Response

from segpipe.errors import BackendError, InputError, UnfitFrameError
from segpipe.instances import Instances
from segpipe.result import Result
from segpipe.runtime.cuda.device import DeviceLostError
from segpipe.runtime.frames import pixel_limit, pixels_of
from segpipe.serving.answers import Kind, kinds_of
from segpipe.serving.guard import GONE
from segpipe.serving.line import FullError, GoneError, Line
from segpipe.serving.metrics import Metrics
from segpipe.serving.models import Model, Models
from segpipe.serving.shadowing import ShadowCollector

_log = logging.getLogger(__name__)

_AGAIN = {"retry-after": "1"}
STUCK_S = 600.0
"""Longer than any picture takes that `--max-megapixels` lets in."""
_STUCK = f"a picture has been in work for more than {STUCK_S / 60:.0f} minutes: its thread is lost to this process"
LOST = "the GPU is lost to this process: it has to be restarted"
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
        self._lost: Model | None = None
        """The model whose GPU was lost; another one may take over."""
        metrics.collect_from(ShadowCollector(lambda: models.current))
        metrics.watch("segpipe_queue_depth", "Pictures that wait for a thread.", lambda: line.waiting)
        metrics.watch(
            "segpipe_oldest_seconds", "For how long the picture that was begun first is in work.", lambda: line.oldest_s
        )
        metrics.watch("segpipe_ready", "1 once a model is loaded and warm.", lambda: not self.not_ready)

    @property
    def not_ready(self) -> str:
        """Why no further pictures should be sent; empty where they should."""
        if self.models.current is None:
            return "the model is being opened: /readyz tells when it is"
        if self.is_lost:
            return LOST
        return "about to end" if self.draining else ""

    @property
    def is_lost(self) -> bool:
        """Whether no picture is answered any more."""
        return self._lost is not None and self._lost is self.models.current

    @property
    def beyond_help(self) -> str:
        """Why the process has to be started again; empty where it has not."""
        if self.is_lost:
            return LOST
        return _STUCK if self.line.oldest_s > STUCK_S else ""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The forms of an answer by what serves now; 503 while nothing does."""
        if self.models.current is None or self.is_lost:
            raise HTTPException(503, self.not_ready, _AGAIN)
        return kinds_of(self.models.current.segmenter)

    def describe(self) -> dict[str, Any]:
        """For /model."""
        return self.models.describe()

    async def answer(self, picture: bytes, kind: Kind, left: Callable[[], Awaitable[object]]) -> Response:
        """The picture's answer, or the status that says why there is none."""
        asked = perf_counter()
        try:
            made = await self.line.run(lambda: self._make(picture, kind, asked), left)
        except FullError as full:
            raise HTTPException(429, str(full), {"retry-after": str(full.retry_after_s)}) from None
        except GoneError:
            return Response(status_code=GONE)
        except (InputError, UnfitFrameError) as error:
            raise HTTPException(422, str(error)) from None
        except (BackendError, MemoryError) as error:
            self.metrics.count_failure()
            _log.error("a picture failed: %s", _told(error))
            raise HTTPException(503, _told(error), _AGAIN) from None
        asyncio.get_running_loop().call_soon(self.metrics.time_stages, made.milliseconds, made.artifact)
        headers = {"x-segpipe-artifact": made.artifact, "x-segpipe-mask": made.mask, "vary": "accept"}
        headers["server-timing"] = ", ".join(f"{name};dur={ms:.2f}" for name, ms in made.milliseconds.items())
        return Response(made.body, media_type=kind.name, headers=headers)

    def _make(self, picture: bytes, kind: Kind, asked: float) -> Made:
        """In a thread."""
        times = [asked, perf_counter()]
        with self.models.lease() as model:
            segmenter = model.segmenter
            if kind not in kinds_of(segmenter):  # since it was chosen
                raise BackendError("a model of another kind has taken over", hint="send the picture again")
            fits = pixel_limit(segmenter.max_pixels, _SMALLER)
            frame = pixels_of(picture, segmenter.contract, "rgb", fits)
            times.append(perf_counter())
            try:
                result = segmenter.detail(frame)
            except DeviceLostError:
                self._lost = model
                raise
            times.append(perf_counter())
            body = kind.make(result, frame)
            times.append(perf_counter())
        names = ("wait", "decode", "segment", "encode")
        spent = {name: 1000 * (to - at) for name, at, to in zip(names, times, times[1:], strict=False)}
        return Made(body, segmenter.artifact_sha256, _described(result), spent)


def _told(error: Exception) -> str:
    return f"memory ran out: {error}" if isinstance(error, MemoryError) else str(error)


def _described(result: Result | Instances) -> str:
    if isinstance(result, Instances):
        kind, (height, width) = "uint16", result.size
    else:
        kind, (height, width) = str(result.mask.dtype), np.shape(result.mask)
    return f"{kind} {height}x{width}"
