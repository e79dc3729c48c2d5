"""What `segpipe models` prints: measured figures of the listed networks, and what each can do. Light: no torch.

catalogue.json is written by `make matrix`, which checks every statement in it, and network by network by
`python -m benchmarks.networks --one NAME`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segpipe.errors import ArtifactMissingError
from stages.models.registry import ABILITIES, Known, known_networks

COLUMNS = ("network", "stride", "multiple", "M parameters", "GFLOPs", "cannot")
FILE = Path(__file__).with_name("catalogue.json")


SIZE = (512, 1024)
"""Height and width that GFLOPs are counted at, unless a network is made for one size."""


@dataclass(frozen=True)
class NetworkFigures:
    """A network's figures with 3 input channels and 19 classes, deep supervision heads included."""

    stride: int
    size_multiple: int
    parameters: int
    gflops: float
    """Of one frame of `gflops_size` (height, width); a multiply and an add count as two."""
    gflops_size: tuple[int, int]


@dataclass(frozen=True)
class Line:
    """A network's line in the list."""

    known: Known
    figures: NetworkFigures

    def cells(self) -> list[str]:
        """For the table, under COLUMNS."""
        figures = self.figures
        at = "" if figures.gflops_size == SIZE else " at {}x{}".format(*figures.gflops_size)
        return [
            self.known.title,
            str(figures.stride),
            str(figures.size_multiple),
            f"{figures.parameters / 1e6:.2f}",
            f"{figures.gflops:.1f}{at}",
            ", ".join(ability.replace("_", " ") for ability in self.known.cannot),
        ]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "name": self.known.name,
            "options": dict(self.known.options),
            "about": self.known.about,
            **asdict(self.figures),
            "can": [ability for ability in ABILITIES if ability not in self.known.cannot],
            "cannot": dict(self.known.cannot),
        }


def listed() -> list[Line]:
    """Every listed network with its committed figures."""
    figures = read()
    for known in known_networks():
        if known.title not in figures:
            raise ArtifactMissingError(
                f"no figures of network '{known.title}' are in {FILE.name}",
                hint=f"run `python -m benchmarks.networks --one '{known.title}'` in a checkout",
            )
    return [Line(known, figures[known.title]) for known in known_networks()]


def read() -> dict[str, NetworkFigures]:
    """The committed figures by title."""
    return {title: _figures(row) for title, row in json.loads(FILE.read_text(encoding="utf-8")).items()}


def write(figures: dict[str, NetworkFigures]) -> None:
    """Replace the committed figures."""
    text = json.dumps({title: asdict(value) for title, value in figures.items()}, indent=1)
    FILE.write_text(text + "\n", encoding="utf-8")


def _figures(content: dict[str, Any]) -> NetworkFigures:
    return NetworkFigures(**{**content, "gflops_size": tuple(content["gflops_size"])})
