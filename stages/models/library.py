"""Where a network comes from, so that its published weights can be found."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Library:
    """A library's own name for a network, and the options that it was made with."""

    kind: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
