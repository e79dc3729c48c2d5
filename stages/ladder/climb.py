"""The ladder: the run as it is, INT8, INT8 trained, pruned and taught; down until what passed the gate fits."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segpipe.errors import (
    BackendError,
    BackendMissingError,
    BuildError,
    ConfigError,
    ExportError,
    GateFailedError,
    InputError,
    SegpipeError,
)
from segpipe.rundir import lock, manifest
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.storage import explained_refusals
from stages.config.compress import CutTooFarError
from stages.ladder.budget import Budget
from stages.ladder.candidates import Bench, Candidate, meant
from stages.ladder.rungs import Rung, made
from stages.ladder.shares import Try, next_share
from stages.ladder.source import Source
from stages.ladder.tried import keep, tried

AS_IT_IS = "as it is"
_IMPOSSIBLE = (BackendError, BackendMissingError, BuildError, ConfigError, ExportError)
"""What says that a rung cannot be made of this network; anything else ends the command."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """What is wanted, on what, and where the rungs go."""

    budget: Budget
    folder: Path
    backend: str = "auto"
    epochs: int = 5
    """Of further training, for each rung that trains."""


@dataclass(frozen=True)
class Outcome:
    """Everything measured, what is kept of it, and the rungs that could not be made."""

    terms: Terms
    candidates: tuple[Candidate, ...]
    kept: Candidate | None
    troubles: Mapping[str, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    """Why the times are to be taken with care."""

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        budget = {"kind": self.terms.budget.kind, "limit": self.terms.budget.limit}
        return {
            "budget": budget,
            "kept": self.kept.as_dict() if self.kept else None,
            "candidates": [candidate.as_dict() for candidate in self.candidates],
            "troubles": dict(self.troubles),
            "doubts": list(self.doubts),
        }


def climb(source: Source, terms: Terms) -> Outcome:
    """Make and measure rung after rung. One command at a time in a folder."""
    if (terms.folder / manifest.FILE_NAME).exists():
        raise InputError(f"{terms.folder} is itself a run", hint="name another folder with --out")
    meant(source.run, terms.backend)  # an unknown one is refused
    if why := source.why_not_trained:
        _log.warning("compress: nothing is pruned or taught: %s", why)
        if terms.budget.kind == "macs" and terms.budget.limit < 1:
            raise InputError(f"only pruning lowers the MACs, and {why}", hint="prune it where it was trained")
    with explained_refusals(str(terms.folder)):
        terms.folder.mkdir(parents=True, exist_ok=True)
    with lock.exclusive(terms.folder):
        return _Ladder(source, terms).climbed()


def require_kept(outcome: Outcome) -> Candidate:
    """Exit code 3 where nothing fits."""
    if outcome.kept is not None:
        return outcome.kept
    budget = outcome.terms.budget
    passed = [one for one in outcome.candidates if not one.why_closed]
    nearest = min((one.cost(budget.kind) for one in passed), default=None)
    least = "nothing passed the gate" if nearest is None else f"the least that passed takes {budget.plain(nearest)}"
    raise GateFailedError(
        f"nothing fits {budget.plain()}: {least}", hint="allow more, or begin with a smaller network: `segpipe models`"
    )


class _Ladder:
    """One climb."""

    def __init__(self, source: Source, terms: Terms) -> None:
        self._source, self._terms = source, terms
        self._rungs: list[tuple[str, RunDirectory]] = [(AS_IT_IS, source.run)]
        self._bench = Bench(source.config, source.run.path, terms.backend)
        self._found: list[Candidate] = []
        self._troubles: dict[str, SegpipeError] = {}
        self._int8: dict[str, Any] = {}

    def climbed(self) -> Outcome:
        """From the top."""
        self._look()
        if not self._found:
            raise BackendMissingError(
                f"nothing of {self._source.run.path} opens here with backend '{self._terms.backend}'",
                hint="`segpipe doctor` names what runs",
            )
        has_int8 = self._source.config.compress.int8 != "off"
        if self._kept() is None and self._terms.budget.kind != "macs" and not has_int8:
            self._narrow()
        if self._kept() is None and not self._source.why_not_trained:
            self._prune()
        troubles = {name: error.message for name, error in self._troubles.items()}
        return Outcome(self._terms, tuple(self._found), self._kept(), troubles, self._bench.doubts)

    def _narrow(self) -> None:
        """INT8 after training; where the gate keeps that closed, INT8 trained."""
        self._int8 = {"int8": "ptq"}
        rung = Rung("int8", self._int8)
        if not self._add(rung):
            self._int8 = {}
        elif not self._source.why_not_trained and not self._opened_in_int8(rung.name):
            rung = Rung("int8-trained", {"int8": "qat", "qat_epochs": self._terms.epochs})
            if self._add(rung) and self._opened_in_int8(rung.name):
                self._int8 = dict(rung.settings)

    def _prune(self) -> None:
        """To smaller and smaller shares, until one costs little enough.

        What is refused for another reason than its share is refused for all."""
        limit, uncut = self._terms.budget.limit, self._least([name for name, _ in self._rungs])
        tries: list[Try] = []
        while (share := self._share(len(tries), uncut, tries)) is not None:
            rung = Rung(f"pruned-{share:.2f}", self._cut(share))
            cost = self._least([rung.name]) if self._add(rung) else None
            if cost is None and not isinstance(self._troubles[rung.name], CutTooFarError):
                return
            if cost is not None and cost <= limit:
                return
            tries.append(Try(share, cost))

    def _share(self, number: int, uncut: float, tries: Sequence[Try]) -> float | None:
        """The next one to cut to, noted before it is begun."""
        budget = self._terms.budget
        if budget.kind == "macs":
            return None if tries else budget.limit
        known = tried(self._terms.folder, self._source.record.key)
        name = f"{budget.kind} {budget.limit:g} {self._terms.backend}"
        shares = known.shares.setdefault(name, [])
        if number == len(shares):
            if (share := next_share(uncut, budget.limit, tries)) is None:
                return None
            shares.append(share)
            keep(self._terms.folder, known)
        return shares[number]

    def _cut(self, share: float) -> dict[str, Any]:
        return {**self._int8, "prune": {"macs": share, "epochs": self._terms.epochs}}

    def _add(self, rung: Rung) -> bool:
        """Make and measure it; whether it could be made."""
        try:
            run = made(rung, self._source, self._terms.folder, builds=self._needs_engines())
        except _IMPOSSIBLE as error:
            _log.warning("compress: no rung %s: %s", rung.name, error)
            self._troubles[rung.name] = error
            return False
        self._rungs.append((rung.name, run))
        self._look()
        return True

    def _needs_engines(self) -> bool:
        """Whether what the source run has for a GPU is to be made for the rungs too."""
        return any(candidate.backend.startswith("tensorrt") for candidate in self._found)

    def _look(self) -> None:
        """All of them anew, in turns: times of one moment can be compared."""
        self._found = self._bench.measure(self._rungs)

    def _opened_in_int8(self, rung: str) -> bool:
        return any(one.rung == rung and one.precision == "int8" and not one.why_closed for one in self._found)

    def _least(self, names: Sequence[str]) -> float:
        """The least cost among what passed, or, where nothing did, among all."""
        among = [one for one in self._found if one.rung in names]
        passed = [one for one in among if not one.why_closed]
        return min(one.cost(self._terms.budget.kind) for one in passed or among)

    def _kept(self) -> Candidate | None:
        """The most accurate of what passed the gate and fits."""
        budget = self._terms.budget
        fits = [one for one in self._found if not one.why_closed and one.cost(budget.kind) <= budget.limit]
        return max(fits, key=lambda one: one.miou, default=None)
