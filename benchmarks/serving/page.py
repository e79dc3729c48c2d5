"""The page of results: a section for each part, replaced when that part is measured again."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results/serving.md"
_HEAD = "# segpipe serve\n\n`python -m benchmarks.serving [PART ...]` writes the sections of its parts.\n"


@dataclass(frozen=True)
class Outcome:
    """What a part measured."""

    lines: Sequence[str]
    targets: Mapping[str, bool]
    """What should be, in words, and whether it is."""

    @property
    def passed(self) -> bool:
        """Whether every target was met."""
        return all(self.targets.values())

    @property
    def verdict(self) -> str:
        """One line."""
        missed = [words for words, met in self.targets.items() if not met]
        return f"missed: {'; '.join(missed)}" if missed else f"passed: {'; '.join(self.targets)}"


def section(name: str, what: str, outcome: Outcome) -> str:
    """A part's text."""
    return "\n".join([f"## {name}", "", what, "", *outcome.lines, "", f"Verdict: {outcome.verdict}.", ""])


def with_section(page: str, name: str, text: str) -> str:
    """The page with this section in place of the one of its name, or at its end."""
    page = page or _HEAD
    old = re.search(rf"^## {re.escape(name)}\n.*?(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    if old is None:
        return f"{page.rstrip()}\n\n{text}"
    rest = page[old.end() :]
    return page[: old.start()] + text + ("\n" + rest if rest else "")
