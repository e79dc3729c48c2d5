"""The contest, with made-up contestants: answers compared, failures listed, threads, Ctrl-C."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from segpipe.contract.schema import Contract
from stages.benchmark.contest import Contest, computing_with
from stages.benchmark.contestants import Candidate, Entrant, Scene
from tests.tiny import contract_fields

FRAMES = [np.full((4, 6, 3), value, np.uint8) for value in (0, 1)]
SCENE = Scene(FRAMES, Contract(**contract_fields()), threads=1)
Segment = Callable[[NDArray[Any]], NDArray[Any]]


def mask(frame: NDArray[Any]) -> NDArray[Any]:
    """The right answer."""
    return frame[..., 0]


def wrong(frame: NDArray[Any]) -> NDArray[Any]:
    """Another one."""
    return mask(frame) + 1


def candidate(
    name: str, segment: Segment, call: Callable[[int], object] | None = None, ours: bool = False
) -> Candidate:
    """Somebody who can be opened; `call` is what it does with a round."""
    calls = call or (lambda number: segment(SCENE.frame(number)))
    return Candidate(name, "end to end", ours, lambda: Entrant(calls, segment))


def raising(error: BaseException) -> Any:
    """A function that always fails."""

    def fail(*_: object) -> Any:
        raise error

    return fail


def test_a_wrong_answer_is_marked() -> None:
    contest = Contest([candidate("ours", wrong, ours=True), candidate("peer", mask)], SCENE)
    contest.prepare("peer", seconds=1)
    entries = {entry.name: entry for entry in contest.entries()}

    assert contest.reference == "peer"
    assert (entries["peer"].agreement, entries["peer"].same_answer) == (1.0, True)
    assert (entries["ours"].agreement, entries["ours"].same_answer) == (0.0, False)


def test_who_cannot_be_opened_or_answer_is_out_with_the_reason_and_another_is_the_reference() -> None:
    shut = Candidate("shut", "end to end", False, raising(ImportError("not installed")))
    contest = Contest(
        [candidate("ours", mask, ours=True), shut, candidate("mute", raising(ValueError("no mask")))], SCENE
    )
    contest.prepare("mute", seconds=1)
    contest.take_turns({}, rounds=2, seconds=60)
    reasons = {entry.name: entry.reason for entry in contest.entries() if entry.latency is None}

    assert contest.reference == "ours"
    assert reasons == {"shut": "not installed", "mute": "no mask"}


def test_who_crashes_in_the_rounds_lets_the_others_go_on_and_is_not_the_best() -> None:
    prepared: list[bool] = []

    def crash(number: int) -> None:
        if prepared and number == 3:
            raise RuntimeError("device lost")

    contest = Contest([candidate("first", mask, crash, ours=True), candidate("second", mask, ours=True)], SCENE)
    contest.prepare("", seconds=1)
    prepared.append(True)
    contest.take_turns({}, rounds=12, seconds=60)
    entries = {entry.name: entry for entry in contest.entries()}

    assert "device lost" in entries["first"].reason
    assert entries["second"].latency is not None
    assert entries["second"].latency.samples == 12
    assert contest.best() == "second"


def test_ctrl_c_keeps_the_whole_rounds_of_everybody() -> None:
    prepared: list[bool] = []

    def interrupted(number: int) -> None:
        if prepared and number == 4:
            raise KeyboardInterrupt

    contest = Contest([candidate("ours", mask, interrupted, ours=True), candidate("peer", mask)], SCENE)
    contest.prepare("", seconds=1)
    prepared.append(True)
    rounds = contest.take_turns({}, rounds=50, seconds=60)

    assert rounds.interrupted
    assert {name: len(values) for name, values in contest.samples.items()} == {"ours": 4, "peer": 4}


def test_every_contestant_computes_with_the_wanted_threads_and_they_are_put_back() -> None:
    before, wanted = (torch.get_num_threads(), cv2.getNumThreads()), torch.get_num_threads() + 1
    seen = set()

    def watched(frame: NDArray[Any]) -> NDArray[Any]:
        seen.add((torch.get_num_threads(), cv2.getNumThreads()))
        return mask(frame)

    with computing_with(wanted):
        contest = Contest([candidate("peer", watched)], SCENE)
        contest.prepare("peer", seconds=1)
        contest.take_turns({}, rounds=2, seconds=60)

    assert seen == {(wanted, wanted)}
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


def test_ratios_over_few_rounds_have_no_interval() -> None:
    contest = Contest([candidate("ours", mask, ours=True), candidate("peer", mask)], SCENE)
    contest.prepare("", seconds=1)
    spans = {}
    for rounds in (9, 10):
        contest.take_turns({}, rounds, seconds=60)
        (ratio,) = contest.ratios()
        spans[rounds] = (ratio.low, ratio.high)

    assert spans[9] == (None, None)
    assert None not in spans[10]
