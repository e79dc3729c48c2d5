"""The deployed artifacts as hops: whatever a backend of this machine can open. Light: no torch."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract import Contract
from segpipe.errors import InputError, SegpipeError
from segpipe.manifest import logical_name
from segpipe.rundir import RunDirectory
from segpipe.runtime.backends import ARTIFACTS, Backend, open_backend
from segpipe.runtime.preprocess import preprocess
from stages.validate.answers import Answered, Hop, NotRun

FP32_GRAPH, FP16_GRAPH = "model.onnx", "model.fp16.onnx"
_ENGINES = {"model.tensorrt.engine": "tensorrt", "model.rtx.engine": "tensorrt-rtx"}
_EXACT = frozenset({"onnxruntime-cpu"})  # CUDA's convolutions take TF32 by default


class BackendAnswer:
    """The runtime that production uses, end to end. The one place that knows the backend's seam."""

    def __init__(self, backend: Backend, contract: Contract) -> None:
        self._backend, self._contract = backend, contract

    def __call__(self, frames: Sequence[NDArray[Any]]) -> list[Answered]:
        """Masks and scores of some frames."""
        masks = self._backend.infer(frames)
        return [Answered(mask, scores) for mask, scores in zip(masks, self._scores(frames), strict=True)]

    def _scores(self, frames: Sequence[NDArray[Any]]) -> list[NDArray[Any] | None]:
        if self._contract.output_kind == "labels":
            return [None] * len(frames)
        tensors = [preprocess(frame, self._contract, self._contract.place(*frame.shape[:2])) for frame in frames]
        run: Any = getattr(self._backend, "scores")  # noqa: B009 - the protocol has no scores yet
        if len({tensor.shape for tensor in tensors}) == 1:
            raw = list(run(np.stack(tensors)))
        else:
            raw = [run(tensor[np.newaxis])[0] for tensor in tensors]
        return [one if self._contract.output_layout == "nchw" else one.transpose(2, 0, 1) for one in raw]


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
        sha256 = self._rundir.record(stage).outputs[file].sha256
        try:
            answer, device = self._answer(backend, stage, file)
        except SegpipeError as error:
            self.not_run.append(NotRun(f"{stage}/{file}", sha256, backend, f"not run here: {error}"))
            return None
        exact = backend in _EXACT and file == FP32_GRAPH
        hop = Hop(name, stage, file, sha256, backend, device, answer, exact)
        self.hops.append(hop)
        return hop

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

    def _answer(self, backend: str, stage: str, file: str) -> tuple[BackendAnswer, str]:
        if stage == "build" and (stale := stale_engine(self._rundir)):
            raise InputError(stale, hint=f"run `segpipe build {self._rundir.path}`")
        opened = open_backend(backend, self._rundir.artifact_bytes(stage, file), self._contract)
        self._stack.callback(opened.close)
        return BackendAnswer(opened, self._contract), opened.device


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
