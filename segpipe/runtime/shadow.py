"""Shadow: a share of the frames goes through the reference too, in the background, and pixels that differ are counted.

Held to the gate's own limits on agreement: where real frames are further from the reference than the gate allowed on
its images, the artifact is not the network that was judged, or the frames are not of the kind that it was judged on.
"""

import logging
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from segpipe.artifacts import ON_CPU
from segpipe.errors import InputError
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.manifest import Manifest
from segpipe.runtime.opening import Wanted, open_run, run_contract
from segpipe.runtime.request import OpenOptions, Outputs
from segpipe.tasks import task_of

_WINDOW = 100  # of the last frames: what changed today is not hidden by what was right last year
_FEWEST = 20  # frames that make a mean; the limit for one frame holds from the first one on

Reference = Callable[[NDArray[Any]], NDArray[Any]]
"""A frame to its mask."""

_log = logging.getLogger(__name__)


class Limits(BaseModel):
    """Of the gate's `validate.limits` those that need no labels and no scores."""

    min_agreement: float = 0.995
    min_image_agreement: float = 0.97


@dataclass(frozen=True)
class ShadowReport:
    """What was seen so far."""

    frames: int = 0
    """Compared."""
    pixels: int = 0
    flips: int = 0
    """Pixels whose class differs."""
    beyond: int = 0
    """Frames that agree less than `min_image_agreement`."""
    dropped: int = 0
    """Frames that were due while another was compared."""
    failed: int = 0
    """Frames on which the reference failed."""
    drifting: bool = False
    """Whether the last frames agree less than the gate allows."""


def limits_of(manifest: Manifest) -> Limits:
    """What the last validation was told; the defaults where it was told nothing."""
    record = manifest.stages.get("validate")
    settings = record.params.get("validate", {}) if record else {}
    try:
        return Limits.model_validate(settings.get("limits", {}) if isinstance(settings, dict) else {})
    except ValidationError:
        return Limits()


def open_shadow(run: RunDirectory, artifact_sha256: str, share: float, allow_unvalidated: bool) -> "Shadow":
    """Beside an artifact that is open: the FP32 graph on one core, as the gate passed it."""
    require_share(share)
    if run.recorded(ON_CPU.stage, ON_CPU.file).sha256 == artifact_sha256:
        raise InputError(
            f"the artifact that runs is {ON_CPU.path}, the reference itself: a shadow would see nothing",
            hint="leave shadow out, or open a backend with a file of its own",
        )
    backend, _ = open_run(run, Wanted(ON_CPU.name, allow_unvalidated=allow_unvalidated), OpenOptions(threads=1))
    task = task_of(run_contract(run))
    return Shadow(
        lambda frame: task.plain(backend.infer([frame], Outputs())[0]), share, limits_of(run.manifest), backend.close
    )


class Shadow:
    """Called from any thread; compares one frame at a time, in a thread of its own, and keeps none."""

    def __init__(
        self, reference: Reference, share: float, limits: Limits, free: Callable[[], None] = lambda: None
    ) -> None:
        self._reference, self._share, self._limits, self._free = reference, share, limits, free
        self._lock, self._report = threading.Lock(), ShadowReport()
        self._latest: deque[tuple[int, int]] = deque(maxlen=_WINDOW)
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def report(self) -> ShadowReport:
        """So far."""
        return self._report

    def offer(self, frame: Any, mask: Any) -> None:
        """A frame with its mask; both are copied if it is their turn. What lies on a GPU is left alone."""
        if random.random() >= self._share or not isinstance(frame, np.ndarray) or not isinstance(mask, np.ndarray):
            return
        with self._lock:
            if self._closed:
                return
            if self._thread is not None:
                self._note(dropped=1)
                return
            self._thread = threading.Thread(
                target=self._compare, args=(frame.copy(), mask.copy()), name="segpipe-shadow"
            )
            self._thread.start()

    def close(self) -> None:
        """Wait for the frame that is being compared, and free the reference."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.join()
        self._free()

    def _compare(self, frame: NDArray[Any], mask: NDArray[Any]) -> None:
        flips: int | None = None
        try:
            flips = int(np.count_nonzero(self._reference(frame) != mask))
        except Exception as error:  # noqa: BLE001 - whatever it is, the frame has had its answer
            _log.warning("shadow: the reference failed on a frame: %s", error)
        with self._lock:
            self._thread = None
            if flips is None:
                return self._note(failed=1)
            self._latest.append((flips, mask.size))
            is_beyond = flips > (1 - self._limits.min_image_agreement) * mask.size
            self._note(frames=1, pixels=mask.size, flips=flips, beyond=int(is_beyond))
            return self._judge()

    def _judge(self) -> None:
        """Drift begins and ends with a line each."""
        flips, pixels = (sum(parts) for parts in zip(*self._latest, strict=True))
        worst = max(own / of for own, of in self._latest)
        mean_is_low = len(self._latest) >= _FEWEST and flips / pixels > 1 - self._limits.min_agreement
        drifting = mean_is_low or worst > 1 - self._limits.min_image_agreement
        if drifting != self._report.drifting:
            self._report = replace(self._report, drifting=drifting)
            _log.log(
                logging.ERROR if drifting else logging.INFO,
                "shadow: %s: of the last %d frames %.3f %% of the pixels differ from the reference's, of the worst"
                " %.3f %%; the gate allows %.3f %% and %.3f %%",
                "drift" if drifting else "no drift any more",
                len(self._latest), 100 * flips / pixels, 100 * worst,
                100 * (1 - self._limits.min_agreement), 100 * (1 - self._limits.min_image_agreement),
            )  # fmt: skip

    def _note(self, **more: int) -> None:
        """Under the lock."""
        self._report = replace(self._report, **{name: getattr(self._report, name) + n for name, n in more.items()})


def require_share(share: float) -> None:
    """Refuse what is no share."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise InputError(f"shadow is {share!r}", hint="give the share of frames, such as 0.001")
