"""The deployed artifacts as hops: whatever a backend of this machine can open. Light: no torch."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from segpipe.artifacts import (
    BUILD,
    END_TO_END,
    END_TO_END_GRAPH,
    EXPORT,
    FP8_GRAPH,
    FP16_GRAPH,
    INT8_GRAPH,
    ON_CPU,
    Artifact,
    Precision,
    held_by,
)
from segpipe.contract.schema import AnyContract, Contract
from segpipe.errors import BackendMissingError, InputError, SegpipeError, word
from segpipe.instances import Instances
from segpipe.processor import CPU
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.manifest import logical_name
from segpipe.runtime.backends import Backend, load_opener
from segpipe.runtime.opening import build_options
from segpipe.runtime.request import OpenOptions, Outputs
from stages.validate.hops.hop import Answer, Answered, Hop, NotRun, of_things

_ON_CPU_HINT = f"pip install 'segpipe[{ON_CPU.spec.extra}]'"


@dataclass(frozen=True)
class Stand:
    """A graph that stands for the engines that are built from it: the hop's name, the file and its precision."""

    name: Literal["fp16", "fp8", "int8"]
    file: str

    @property
    def precision(self) -> Precision:
        """It is called after it."""
        return self.name


STANDS = (Stand("fp16", FP16_GRAPH), Stand("fp8", FP8_GRAPH), Stand("int8", INT8_GRAPH))


class BackendAnswer:
    """The runtime that production uses, end to end. The one place that knows the backend's seam."""

    def __init__(self, backend: Backend, contract: AnyContract) -> None:
        self._backend, self._contract = backend, contract

    def __call__(self, frames: Sequence[NDArray[Any]]) -> list[Answered]:
        """Masks and scores of some frames."""
        wanted = Outputs(scores=getattr(self._contract, "output_kind", "") != "labels")
        return [_answered(result) for result in self._backend.infer(frames, wanted)]


def _answered(result: Any) -> Answered:
    return of_things(result) if isinstance(result, Instances) else Answered(result.mask, result.scores)


def open_graph(graph: bytes, contract: AnyContract) -> BackendAnswer:
    """A graph in memory on ONNX Runtime's CPU provider, which holds nothing that must be closed."""
    return BackendAnswer(load_opener(ON_CPU.name)(graph, contract, OpenOptions(frugal=True)), contract)


class OpenHops:
    """Hops that are open, artifacts that are not run here, and what must be closed at the end."""

    def __init__(self, rundir: RunDirectory, contract: AnyContract) -> None:
        self.hops: list[Hop] = []
        self.not_run: list[NotRun] = []
        self._rundir, self.contract = rundir, contract
        self._stack = ExitStack()

    def __enter__(self) -> "OpenHops":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def open(self, row: Artifact, name: str = "") -> Hop | None:
        """Add a hop, called `name` or as the artifact, where it opens here; otherwise keep the backend's own reason."""
        sha256 = self._rundir.recorded(row.stage, row.file).sha256
        try:
            opened = self._opened(row)
        except SegpipeError as error:
            self.not_run.append(NotRun(row.path, sha256, row.name, f"not run here: {error}"))
            return None
        answer = self._answer(opened)
        hop = Hop(name or row.name, row.stage, row.file, sha256, row.name, opened.device, answer, row.precision)
        return self._add(hop)

    def open_rounded(self, row: Stand, graph: bytes, backend: str) -> Hop:
        """Add a graph of engines in its rounded form, under a backend's name of its own."""
        sha256 = self._rundir.recorded(EXPORT, row.file).sha256
        opened = load_opener(ON_CPU.name)(graph, self.contract, OpenOptions(frugal=True))
        return self._add(Hop(row.name, EXPORT, row.file, sha256, backend, CPU, self._answer(opened), row.precision))

    def open_deployed(self, wanted: str | None = None) -> None:
        """Everything that the runtime could open in this run, in the order of the hops.

        `wanted`: 'engine' for the TensorRT engines, or the name of one backend; None leaves ONNX Runtime's CPU out.
        """
        for row in deployed(self._rundir):
            meant = wanted == row.name or (wanted == "engine" and row.is_engine)
            if meant or (wanted is None and row.name != ON_CPU.name):
                self.open(row)
        if wanted in {None, END_TO_END} and holds_end_to_end(self._rundir):
            self._open_end_to_end()

    def _open_end_to_end(self) -> None:
        sha256 = self._rundir.recorded(EXPORT, END_TO_END_GRAPH).sha256
        try:
            answer = _load_end_to_end(self._rundir.artifact_bytes(EXPORT, END_TO_END_GRAPH), self.contract)
        except SegpipeError as error:
            path = f"{EXPORT}/{END_TO_END_GRAPH}"
            self.not_run.append(NotRun(path, sha256, END_TO_END, f"not run here: {error}"))
            return
        self._add(Hop(END_TO_END, EXPORT, END_TO_END_GRAPH, sha256, END_TO_END, CPU, answer, "fp32", False))

    def _opened(self, row: Artifact) -> Backend:
        if row.is_engine and (stale := stale_engine(self._rundir)):
            raise InputError(stale, hint=f"run `segpipe build {word(self._rundir.path)}`")
        options = build_options(self._rundir, row.name, OpenOptions(frugal=True))
        return load_opener(row.name)(self._rundir.artifact_bytes(row.stage, row.file), self.contract, options)

    def _answer(self, opened: Backend) -> BackendAnswer:
        self._stack.callback(opened.close)
        return BackendAnswer(opened, self.contract)

    def _add(self, hop: Hop) -> Hop:
        self.hops.append(hop)
        return hop


def deployed(rundir: RunDirectory) -> list[Artifact]:
    """Every finished file that some backend runs, graphs first."""
    return sorted(held_by(rundir.manifest), key=lambda row: row.is_engine)


def holds_end_to_end(rundir: RunDirectory) -> bool:
    """Whether the run was exported with the graph from frame to mask."""
    return END_TO_END_GRAPH in rundir.record(EXPORT).outputs


def _load_end_to_end(graph: bytes, contract: AnyContract) -> Answer:
    """It needs ONNX Runtime, which not every machine that judges has."""
    try:
        from stages.validate.hops.end_to_end import EndToEndAnswer
    except ImportError as error:
        raise BackendMissingError(f"ONNX Runtime cannot be imported: {error}", hint=_ON_CPU_HINT) from error
    assert isinstance(contract, Contract)  # export makes this graph of no others
    return EndToEndAnswer(graph, contract)


def stale_engine(rundir: RunDirectory) -> str | None:
    """Whether the engines were built from another graph than the run holds now."""
    made_from = {logical_name(path): digest for path, digest in rundir.record(BUILD).inputs.items()}
    for file, output in rundir.record(EXPORT).outputs.items():
        if made_from.get(f"{EXPORT}/{file}", output.sha256) != output.sha256:
            built, held = made_from[f"{EXPORT}/{file}"][:12], output.sha256[:12]
            return f"the engine was built from another export/{file}: {built}, the run has {held}"
    return None
