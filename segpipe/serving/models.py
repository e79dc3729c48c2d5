"""Models: the one that serves, and how another takes over. What has begun ends with the model it began with."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segpipe.artifacts import AUTO, Precision, held_by
from segpipe.errors import BackendError, InputError, SegpipeError
from segpipe.rundir import manifest
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.by_task import open_segmenter
from segpipe.runtime.instance_segmenter import InstanceSegmenter
from segpipe.runtime.segmenter import Segmenter
from segpipe.runtime.shadow import ShadowReport
from segpipe.serving.memory import require_room, used_bytes
from segpipe.verdict import Verdict, all_verdicts

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What is opened, at the start and at every reload."""

    run: Path
    backend: str = AUTO
    precision: Precision | None = None
    allow_unvalidated: bool = False
    max_pixels: int = Segmenter.max_pixels
    shadow: float = 0.0
    """Share of the pictures that the reference answers too."""
    threads: int = 0
    """Of a backend on the CPU; 0: one a core."""


@dataclass(frozen=True)
class Model:
    """An open and warm segmenter, with what is known of it."""

    segmenter: Segmenter | InstanceSegmenter
    verdicts: tuple[Verdict, ...]
    artifact_bytes: int
    grown_bytes: int
    """How much more memory the process had after it was opened."""
    opened_utc: str

    @property
    def shadow_report(self) -> ShadowReport | None:
        """What the shadow has seen; None where there is none."""
        return self.segmenter.shadow_report if isinstance(self.segmenter, Segmenter) else None

    def describe(self) -> dict[str, Any]:
        """For /model: what runs where, what it was judged, what it takes and answers."""
        return {
            **self.segmenter.describe(),
            "opened_utc": self.opened_utc,
            "verdicts": [verdict.model_dump() for verdict in self.verdicts],
            "contract": self.segmenter.contract.model_dump(),
            "shadow": asdict(shadow) if (shadow := self.shadow_report) else None,
        }


@dataclass(frozen=True)
class Reload:
    """How the last one went."""

    outcome: str
    reason: str
    asked_by: str
    at_utc: str


class BusyError(SegpipeError):
    """A reload is under way."""


class _Slot:
    """A model with the number of those who use it."""

    def __init__(self, model: Model) -> None:
        self.model, self.users, self.retired = model, 0, False


class Models:
    """Called from any thread."""

    def __init__(self, source: Source, count_reload: Callable[[str], None] = lambda _: None) -> None:
        self._source, self._count_reload = source, count_reload
        self._slot: _Slot | None = None
        self._lock, self._reloading = threading.Lock(), threading.Lock()
        self._seen: object = None
        self.last_reload: Reload | None = None

    @property
    def is_behind(self) -> bool:
        """Whether the source's link leads elsewhere, or its manifest is another, than when it was last opened."""
        return _state(self._source.run) != self._seen

    @property
    def current(self) -> Model | None:
        """The one that serves, to be described; to use it take `lease`."""
        slot = self._slot
        return slot.model if slot else None

    @property
    def artifact(self) -> str:
        """Hash of what serves; empty while nothing does."""
        return self.current.segmenter.artifact_sha256 if self.current else ""

    @contextmanager
    def lease(self) -> Iterator[Model]:
        """The model that serves now; it stays open until the lease ends, whatever takes over."""
        with self._lock:
            slot = self._slot
            if slot is None:
                raise BackendError("no model serves", hint="wait until /readyz says 200")
            slot.users += 1
        try:
            yield slot.model
        finally:
            with self._lock:
                slot.users -= 1
                is_last = slot.retired and slot.users == 0
            if is_last:
                slot.model.segmenter.close()

    def open(self) -> None:
        """The first one, opened and warmed; raises what `Segmenter.open` raises."""
        self._take_over(self._opened(self._source))

    def reload(self, asked_by: str, source: Source | None = None) -> Reload:
        """Open what the source names now, or another one. What is refused, for whatever reason, leaves the old one."""
        if not self._reloading.acquire(blocking=False):
            raise BusyError("a reload is under way", hint="wait for it: GET /model tells how it went")
        try:
            outcome, reason = self._reloaded(source or self._source)
        finally:
            self._reloading.release()
        return self._noted(Reload(outcome, reason, asked_by, _now()))

    def refuse(self, asked_by: str, reason: str) -> Reload:
        """A reload of what cannot even be looked for."""
        return self._noted(Reload("refused", reason, asked_by, _now()))

    def describe(self) -> dict[str, Any]:
        """For /model."""
        model, last = self.current, self.last_reload
        about = {"run": str(self._source.run), "last_reload": asdict(last) if last else None}
        return {**about, "ready": model is not None, **(model.describe() if model else {})}

    def close(self) -> None:
        """After the last answer."""
        with self._lock:
            slot, self._slot = self._slot, None
        if slot is not None:
            slot.model.segmenter.close()

    def _noted(self, done: Reload) -> Reload:
        self.last_reload = done
        self._count_reload(done.outcome)
        level = logging.INFO if done.outcome == "accepted" else logging.ERROR
        _log.log(level, "reload asked by %s: %s: %s", done.asked_by, done.outcome, done.reason)
        return done

    def _reloaded(self, source: Source) -> tuple[str, str]:
        """Outcome and reason."""
        try:
            model = self._opened(source)
        except SegpipeError as error:
            return "refused", str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the old one goes on serving
            _log.exception("reload: a bug, or memory ran out")
            return "refused", f"{type(error).__name__}: {error}"
        self._source = source
        self._take_over(model)
        return "accepted", f"artifact {model.segmenter.artifact_sha256[:12]}"

    def _opened(self, source: Source) -> Model:
        self._seen = _state(source.run)
        run = RunDirectory(source.run)
        size_bytes = _largest_artifact(run)
        if self.current is not None:
            grown = self.current.grown_bytes * size_bytes // max(self.current.artifact_bytes, 1)
            require_room(max(grown, 2 * size_bytes))
        before = used_bytes()
        segmenter = open_segmenter(
            source.run,
            source.backend,
            precision=source.precision,
            threads=source.threads,
            allow_unvalidated=source.allow_unvalidated,
            shadow=source.shadow,
        )
        try:
            segmenter.max_pixels = source.max_pixels
            segmenter.warm_up()
            verdicts = [v for v in all_verdicts(run) if v.artifact_sha256 == segmenter.artifact_sha256]
        except BaseException:
            segmenter.close()
            raise
        return Model(segmenter, tuple(verdicts), size_bytes, max(0, used_bytes() - before), _now())

    def _take_over(self, model: Model) -> None:
        with self._lock:
            old, self._slot = self._slot, _Slot(model)
            if old is not None:
                old.retired = True
            is_idle = old is not None and old.users == 0
        if old is not None and is_idle:
            old.model.segmenter.close()


def _largest_artifact(run: RunDirectory) -> int:
    """Bytes of the largest file that could be opened."""
    sizes = [run.manifest.stages[row.stage].outputs[row.file].size_bytes for row in held_by(run.manifest)]
    if not sizes:
        raise InputError(f"{run.path} holds no network", hint=run.how_to_make("export"))
    return max(sizes)


def _state(run: Path) -> object:
    """Something that changes when the run does; None where there is none."""
    try:
        path = run.resolve()
        found = (path / manifest.FILE_NAME).stat()
    except OSError:
        return None
    return path, found.st_ino, found.st_mtime_ns, found.st_size


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
