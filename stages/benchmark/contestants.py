"""What takes part: our own backends, end to end and network alone, and the seam that peers implement too."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from segpipe.artifacts import ARTIFACTS, listed
from segpipe.contract.schema import AnyContract, FrameContract
from segpipe.errors import NotValidatedError
from segpipe.id_maps import classes_in
from segpipe.instances import Instances
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.backends import Backend
from segpipe.runtime.opening import Wanted, open_run
from segpipe.runtime.preprocess import preprocess
from segpipe.runtime.request import OpenOptions, Outputs, StepTimes
from segpipe.verdict import require_passed
from stages.measuring.rounds import OwnTime
from stages.results.benchmark import Kind

_MASK = Outputs()


@dataclass(frozen=True)
class Scene:
    """What all contestants share: the same frames, the same contract, the same threads."""

    frames: Sequence[NDArray[Any]]
    contract: AnyContract
    threads: int

    def frame(self, number: int) -> NDArray[Any]:
        """Frames in turn, so that no cache holds the same one."""
        return self.frames[number % len(self.frames)]


@dataclass(frozen=True)
class Entrant:
    """A contestant that could be opened."""

    call: Callable[[int], object]
    mask: Callable[[NDArray[Any]], NDArray[Any]] | None
    """Frame to mask, for the comparison before the rounds; None where no mask comes out."""
    validated: bool | None = None


@dataclass(frozen=True)
class Candidate:
    """A contestant that may not be possible here; `open` raises with the reason."""

    name: str
    kind: Kind
    ours: bool
    open: Callable[[], Entrant]


@runtime_checkable
class NetworkAlone(Protocol):
    """A backend that can run its network without the rest."""

    def scores(self, tensor: NDArray[Any]) -> NDArray[Any]: ...


@runtime_checkable
class TimesSteps(Protocol):
    """A backend that can time its steps by the GPU's clock."""

    def time_steps(self, frame: NDArray[Any]) -> StepTimes: ...


class OurBackends:
    """The run's backends, opened once each; both kinds of contestant, the budget and the throughput share them."""

    def __init__(self, run: RunDirectory, scene: Scene) -> None:
        self._run, self._scene = run, scene
        self._opened: dict[str, Backend] = {}
        self._validated: dict[str, bool] = {}

    def candidates(self) -> Iterator[Candidate]:
        """End to end and network alone for every backend, best first."""
        names = [row.name for row in listed(self._run.manifest)]
        for name in names:
            yield Candidate(f"segpipe {name}", "end to end", True, partial(self._end_to_end, name))
        for name in names:
            yield Candidate(f"{name}, network alone", "network alone", True, partial(self._alone, name))

    def backend(self, name: str) -> Backend:
        """Opened without asking the release gate; what it says is written beside the figures."""
        if name not in self._opened:
            wanted = Wanted(name, allow_unvalidated=True)
            backend, _ = open_run(self._run, wanted, OpenOptions(threads=self._scene.threads))
            self._opened[name] = backend
            self._validated[name] = is_validated(self._run, backend)
        return self._opened[name]

    def close(self) -> None:
        """Close what was opened."""
        for backend in self._opened.values():
            backend.close()
        self._opened.clear()

    def _end_to_end(self, name: str) -> Entrant:
        backend, scene = self.backend(name), self._scene
        return Entrant(
            call=lambda number: backend.infer([scene.frame(number)], _MASK),
            mask=lambda frame: mask_of(backend.infer([frame], _MASK)[0]),
            validated=self._validated[name],
        )

    def _alone(self, name: str) -> Entrant:
        call = _network_call(self.backend(name), self._scene)
        return Entrant(call, mask=None, validated=self._validated[name])


def mask_of(answer: Any) -> NDArray[Any]:
    """The class of each pixel, which contestants are compared by, of masks and of things."""
    return classes_in(answer.panoptic()) if isinstance(answer, Instances) else answer.mask


def _network_call(backend: Backend, scene: Scene) -> Callable[[int], object]:
    """The network of one frame: by itself, or where it runs only within a whole frame, by its share of that."""
    if isinstance(backend, TimesSteps):
        steps = backend.time_steps
        return lambda number: OwnTime(round(1e6 * steps(scene.frame(number)).network_ms))
    if isinstance(backend, NetworkAlone):
        scores, tensors = backend.scores, [network_input(frame, scene.contract) for frame in scene.frames]
        return lambda number: scores(tensors[number % len(tensors)])
    raise NotImplementedError("this backend runs its network only as part of a whole frame")


def network_input(frame: NDArray[Any], contract: FrameContract) -> NDArray[Any]:
    """One frame as a batch of one input tensor."""
    return preprocess(frame, contract, contract.place(*frame.shape[:2]))[np.newaxis]


def is_validated(run: RunDirectory, backend: Backend) -> bool:
    """Whether the release gate passed what this backend runs, on this device."""
    row = ARTIFACTS[backend.name]
    try:
        require_passed(run, run.recorded(row.stage, row.file).sha256, backend.name, backend.device)
    except NotValidatedError:
        return False
    return True
