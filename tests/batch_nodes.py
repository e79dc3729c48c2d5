"""Hands of `segpipe batch` in this process: nodes that open the bundle, refuse it, or have no room."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from segpipe.batch.actor import Actor
from segpipe.batch.version import Version
from segpipe.errors import NotValidatedError, SegpipeError

FULL, REFUSING, OTHER = "full", "refusing", "other"


class Nodes:
    """What is asked runs at once. A process without a place goes where `spare` says."""

    def __init__(self, *places: str, spare: str = "good") -> None:
        self._places, self._spare = places, spare
        self._answers: dict[object, Any] = {}

    def places(self) -> Sequence[str]:
        return self._places

    def start(self, place: str = "") -> "OneHere":
        return OneHere(place or self._spare, self._answers)

    def share(self, data: bytes) -> bytes:
        return data

    def ready(self, calls: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        return [call for call in calls if call in self._answers]

    def answer(self, call: Any) -> Any:
        return self._answers.pop(call)


class OneHere:
    """An actor of ours, on a node that is so called."""

    def __init__(self, node: str, answers: dict[object, Any]) -> None:
        self._node, self._answers, self._actor = node, answers, Actor()

    def call(self, method: str, *arguments: Any) -> object:
        call = object()
        if not self._node.startswith(FULL):
            self._answers[call] = self._opened(*arguments) if method == "open" else self._actor.work(*arguments)
        return call

    def end(self) -> None:
        """It has nothing that would outlive it."""

    def _opened(self, *arguments: Any) -> tuple[Version, str, int] | SegpipeError:
        if self._node.startswith(REFUSING):
            return NotValidatedError(f"{self._node}: no verdict for this GPU", hint="validate there")
        answer = self._actor.open(*arguments)
        if isinstance(answer, SegpipeError):
            return answer
        version, _, process = answer
        if self._node.startswith(OTHER):
            version = replace(version, backend="another")
        return version, self._node, process
