"""What runs on a node: a bundle unpacked, verified and opened once, and images to masks for as long as it lives."""

import io
import os
import platform
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from segpipe import __version__
from segpipe.artifacts import Precision, held_by
from segpipe.batch.index import Row
from segpipe.batch.items import Item
from segpipe.batch.stores import LocalStore, open_store
from segpipe.batch.strips import Kept, Plan, Strip, plan_of, strip_of
from segpipe.batch.version import FILE_NAME, Output, Version
from segpipe.batch.worker import Worker
from segpipe.bundle import copy_parts
from segpipe.errors import ArtifactDamagedError, InputError, NotValidatedError, SegpipeError
from segpipe.predicting.image import concerns_one
from segpipe.predicting.job import AnySegmenter, Job
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.storage import sha256_of_bytes
from segpipe.runtime.by_task import open_segmenter

Answer = TypeVar("Answer")
_JUDGE = "run `segpipe validate RUN --hop BACKEND` there, on what this command was given, or name another --backend"


@dataclass(frozen=True)
class Opening:
    """What every node opens, and for what."""

    job: Job
    outputs: tuple[Output, ...]
    backend: str
    precision: Precision | None
    allow_unvalidated: bool
    threads: int
    folders: tuple[str, ...] = ()
    """That have to be there."""
    bundle_sha256: str = ""
    segpipe: str = __version__
    worker: type[Worker] = Worker


class Opened(NamedTuple):
    """What a process says of itself."""

    version: Version
    node: str
    process: int
    device: str


def packed(run: Path) -> bytes:
    """The bundle of a run, as one archive. What of it a device may not run, whoever opens it there says."""
    archive = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="segpipe-") as folder, tarfile.open(fileobj=archive, mode="w") as tar:
        copy_parts(RunDirectory(run), Path(folder, "bundle"))
        tar.add(Path(folder, "bundle"), "bundle")
    return archive.getvalue()


def holds_engine(run: Path) -> bool:
    """Whether there is something that a GPU alone runs."""
    return any(row.is_engine for row in held_by(RunDirectory(run).manifest))


class Actor:
    """One process of a node. What a person can mend comes back as a value: Ray would wrap an exception in its own."""

    def __init__(self) -> None:
        self._segmenter: AnySegmenter | None = None
        self._worker: Worker | None = None
        self._kept = Kept()

    def open(self, bundle: bytes, opening: Opening) -> Opened | SegpipeError:
        """What is opened here. Hashes are compared as everywhere."""
        try:
            if opening.segpipe != __version__:
                raise InputError(
                    f"{platform.node()} has segpipe {__version__}, the driver {opening.segpipe}",
                    hint="install the same one on every node",
                )
            if unseen := [folder for folder in opening.folders if not Path(folder).exists()]:
                raise _unseen(" and ".join(unseen))
            if sha256_of_bytes(bundle) != opening.bundle_sha256:
                raise ArtifactDamagedError(f"the bundle came damaged to {platform.node()}", hint="start again")
            with tempfile.TemporaryDirectory(prefix="segpipe-") as folder:
                with tarfile.open(fileobj=io.BytesIO(bundle)) as tar:
                    tar.extractall(folder, filter="data")
                self._segmenter = open_segmenter(
                    Path(folder, "bundle"),
                    opening.backend,
                    precision=opening.precision,
                    threads=opening.threads,
                    allow_unvalidated=opening.allow_unvalidated,
                )
        except SegpipeError as error:
            return _from(error)
        self._opening = opening
        version = Version.of(self._segmenter, opening.job, opening.outputs)
        return Opened(version, platform.node(), os.getpid(), self._segmenter.describe()["device"])

    def work(self, items: Sequence[Item], source: str, version: str) -> list[Row] | SegpipeError:
        """Rows of these images."""
        try:
            return [*self._begun(items[0], source, version).rows(items)]
        except SegpipeError as error:
            return _from(error)

    def plan(self, items: Sequence[Item], source: str, version: str) -> Plan | SegpipeError | None:
        """How one large image is cut; None where it is to be looked at as a whole: it is done, or broken."""
        return self._of_one(items[0], source, version, lambda worker: plan_of(worker, items[0], self._kept))

    def strip(self, items: Sequence[Item], source: str, version: str, wanted: range) -> Strip | SegpipeError | None:
        """What some rows of tiles settle of its mask; None where something is wrong with the image."""
        return self._of_one(items[0], source, version, lambda worker: strip_of(worker, items[0], self._kept, wanted))

    def _of_one(
        self, item: Item, source: str, version: str, ask: Callable[[Worker], Answer]
    ) -> Answer | SegpipeError | None:
        try:
            worker = self._begun(item, source, version)
        except SegpipeError as error:
            return _from(error)
        try:
            return ask(worker)
        except SegpipeError as error:
            return None if concerns_one(error) else _from(error)

    def _begun(self, first: Item, source: str, version: str) -> Worker:
        """Look once whether images and output are to be seen from here: a node without would call all broken."""
        if self._worker is None:
            assert self._segmenter is not None
            stores = open_store(source), open_store(version)
            if stores[1].entry(FILE_NAME) is None:
                raise _unseen(version)
            if isinstance(stores[0], LocalStore) and not (stores[0].root / first.place).parent.is_dir():
                raise _unseen(stores[0].address(first.place))
            opening = self._opening
            self._worker = opening.worker(self._segmenter, *stores, opening.job, opening.outputs)
        return self._worker


def _unseen(what: str) -> InputError:
    return InputError(
        f"{what} is not to be seen from this node", hint="use a folder that all nodes share, or an object store"
    )


def _from(error: SegpipeError) -> SegpipeError:
    """The same error, with its node; causes stay here, which may be of types that nobody else can read.

    Where the bundle was unpacked is of no use to anybody: the folder is gone.
    """
    message, _, _ = error.message.partition(f" in {tempfile.gettempdir()}/")
    return type(error)(
        f"{platform.node()}: {message}", hint=_JUDGE if isinstance(error, NotValidatedError) else error.hint
    )
