"""The deployed artifacts as hops: whatever a backend of this machine can open. Light: no torch."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from numpy.typing import NDArray

from segpipe.contract.schema import Contract
from segpipe.errors import InputError, SegpipeError, word
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.manifest import logical_name
from segpipe.runtime.backends import ARTIFACTS, Backend, load_opener
from segpipe.runtime.opening import build_options
from segpipe.runtime.request import OpenOptions, Outputs
from stages.validate.hops.answers import Answered, Hop, NotRun

FP32_GRAPH, FP16_GRAPH = "model.onnx", "model.fp16.onnx"
_ENGINES = {"model.tensorrt.engine": "tensorrt", "model.rtx.engine": "tensorrt-rtx"}
_EXACT = frozenset({"onnxruntime-cpu"})  # CUDA's convolutions take TF32 by default


class BackendAnswer:
    """The runtime that production uses, end to end. The one place that knows the backend's seam."""

    def __init__(self, backend: Backend, contract: Contract) -> None:
        self._backend, self._contract = backend, contract

    def __call__(self, frames: Sequence[NDArray[Any]]) -> list[Answered]:
        """Masks and scores of some frames."""
        wanted = Outputs(scores=self._contract.output_kind != "labels")
        return [Answered(result.mask, result.scores) for result in self._backend.infer(frames, wanted)]


def open_graph(graph: bytes, contract: Contract) -> BackendAnswer:
    """A graph in memory on ONNX Runtime's CPU provider, which holds nothing that must be closed."""
    return BackendAnswer(load_opener("onnxruntime-cpu")(graph, contract, OpenOptions()), contract)


class OpenHops:
    """Hops that are open, artifacts that are not run here, and what must be closed at the end."""

    def __init__(self, rundir: RunDirectory, contract: Contract) -> None:
        self.hops: list[Hop] = []
        self.not_run: list[NotRun] = []
        self._rundir, self._contract = rundir, contract
        self._stack = ExitStack()

    def __enter__(self) -> "OpenHops":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def open(self, name: str, backend: str, artifact: tuple[str, str]) -> Hop | None:
        """Add a hop where the backend opens here; otherwise keep its own reason."""
        stage, file = artifact
        sha256 = self._rundir.recorded(stage, file).sha256
        try:
            opened = self._opened(backend, stage, file)
        except SegpipeError as error:
            self.not_run.append(NotRun(f"{stage}/{file}", sha256, backend, f"not run here: {error}"))
            return None
        half = file == FP16_GRAPH or (stage == "build" and self._builds_half())
        exact = backend in _EXACT and not half
        return self._add(Hop(name, stage, file, sha256, backend, opened.device, self._answer(opened), exact, half))

    def open_rounded(self, name: str, graph: bytes, backend: str) -> Hop:
        """Add the FP16 graph in its rounded form, under a backend's name of its own."""
        sha256 = self._rundir.recorded("export", FP16_GRAPH).sha256
        opened = load_opener("onnxruntime-cpu")(graph, self._contract, OpenOptions())
        return self._add(Hop(name, "export", FP16_GRAPH, sha256, backend, "cpu", self._answer(opened), half=True))

    def open_deployed(self, wanted: str | None = None) -> None:
        """Everything that the runtime could open in this run, in the order of the hops.

        `wanted`: 'engine' for the TensorRT engines, or the name of one backend; None leaves ONNX Runtime's CPU out.
        """
        for backend, artifact in deployed(self._rundir):
            engine = artifact[0] == "build"
            if wanted is None and backend == "onnxruntime-cpu":
                continue
            if wanted in {None, backend} or (wanted == "engine" and engine):
                self.open(backend, backend, artifact)

    def _builds_half(self) -> bool:
        settings: dict[str, Any] = self._rundir.record("build").params.get("build", {})
        return bool(settings.get("precision", "fp16") == "fp16")

    def _opened(self, backend: str, stage: str, file: str) -> Backend:
        if stage == "build" and (stale := stale_engine(self._rundir)):
            raise InputError(stale, hint=f"run `segpipe build {word(self._rundir.path)}`")
        options = build_options(self._rundir, backend, OpenOptions())
        return load_opener(backend)(self._rundir.artifact_bytes(stage, file), self._contract, options)

    def _answer(self, opened: Backend) -> BackendAnswer:
        self._stack.callback(opened.close)
        return BackendAnswer(opened, self._contract)

    def _add(self, hop: Hop) -> Hop:
        self.hops.append(hop)
        return hop


def deployed(rundir: RunDirectory) -> Iterator[tuple[str, tuple[str, str]]]:
    """(backend, (stage, file)) for every finished file that some backend runs, graphs first."""
    known = {name: artifact for name, artifact in ARTIFACTS.items() if artifact[0] in rundir.manifest.stages}
    if "build" in rundir.manifest.stages:
        known |= {backend: ("build", file) for file, backend in _ENGINES.items()}
    for backend, (stage, file) in sorted(known.items(), key=lambda item: item[1][0] == "build"):
        if file in rundir.record(stage).outputs:
            yield backend, (stage, file)


def stale_engine(rundir: RunDirectory) -> str | None:
    """Whether the engines were built from another graph than the run holds now."""
    made_from = {logical_name(path): digest for path, digest in rundir.record("build").inputs.items()}
    for file, output in rundir.record("export").outputs.items():
        if made_from.get(f"export/{file}", output.sha256) != output.sha256:
            built, held = made_from[f"export/{file}"][:12], output.sha256[:12]
            return f"the engine was built from another export/{file}: {built}, the run has {held}"
    return None
