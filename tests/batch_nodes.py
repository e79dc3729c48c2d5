"""Hands of `segpipe batch` in this process: nodes that open the bundle, refuse it, have no room, or end."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from segpipe.batch.actor import Actor, Opened
from segpipe.batch.hands import EndedError
from segpipe.errors import NotValidatedError, SegpipeError

FULL, REFUSING, OTHER, DEVICE = "full", "refusing", "other", "device"
"""What nodes are called that have no room, may not work, open another backend, or have a device of that name."""


Watch = Callable[[str, tuple[Any, ...]], None]
"""Told of each call before it begins; an EndedError of it ends the process."""


def unwatched(method: str, arguments: tuple[Any, ...]) -> None:
    """Nothing goes wrong."""


class Nodes:
    """What is asked runs at once. A process without a place goes where `spare` says."""

    def __init__(self, *places: str, spare: str = "good", watch: Watch = unwatched) -> None:
        self._places, self._spare, self._watch = places, spare, watch
        self._answers: dict[object, Any] = {}
        self.asked = Counter[tuple[str, str]]()
        """How often, by node and method."""

    def places(self) -> Sequence[str]:
        return self._places

    def start(self, place: str = "") -> "OneHere":
        return OneHere(place or self._spare, self)

    def share(self, data: bytes) -> bytes:
        return data

    def ready(self, calls: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        return [call for call in calls if call in self._answers]

    def answer(self, call: Any) -> Any:
        answer = self._answers.pop(call)
        if isinstance(answer, EndedError):
            raise answer
        return answer

    def ask(self, node: str, method: str, arguments: tuple[Any, ...], do: Callable[..., Any]) -> object:
        """Do it at once, and keep the answer for whoever asks."""
        call = object()
        self.asked[node, method] += 1
        if not node.startswith(FULL):
            try:
                self._watch(method, arguments)
                self._answers[call] = do(*arguments)
            except EndedError as error:
                self._answers[call] = error
        return call


class OneHere:
    """An actor of ours, on a node that is so called."""

    def __init__(self, node: str, nodes: Nodes) -> None:
        self._node, self._nodes, self._actor = node, nodes, Actor()

    def call(self, method: str, *arguments: Any) -> object:
        do = self._opened if method == "open" else getattr(self._actor, method)
        return self._nodes.ask(self._node, method, arguments, do)

    def end(self) -> None:
        """What a process of its own would take along."""
        self._actor._kept.close()

    def _opened(self, *arguments: Any) -> Opened | SegpipeError:
        if self._node.startswith(REFUSING):
            return NotValidatedError(f"{self._node}: no verdict for this GPU", hint="validate there")
        answer = self._actor.open(*arguments)
        if isinstance(answer, SegpipeError):
            return answer
        if self._node.startswith(OTHER):
            answer = answer._replace(version=replace(answer.version, backend="another"))
        device = self._node if self._node.startswith(DEVICE) else answer.device
        return answer._replace(node=self._node, device=device)
