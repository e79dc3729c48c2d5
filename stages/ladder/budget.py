"""What a network may cost: milliseconds a frame, a share of the multiplications, or bytes on disk."""

import re
from dataclasses import dataclass
from typing import Literal

from segpipe.errors import InputError

Kind = Literal["latency", "macs", "size"]

_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_BYTES = {"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_NUMBER = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*")


@dataclass(frozen=True)
class Budget:
    """The largest cost: `latency` in ms, `macs` as a share of the run's, `size` in bytes."""

    kind: Kind
    limit: float

    def plain(self, value: float | None = None) -> str:
        """The limit, or a cost of its kind, for a person."""
        amount = self.limit if value is None else value
        if self.kind == "macs":
            return f"{amount:.0%} of the MACs"
        return f"{amount:.3g} ms a frame" if self.kind == "latency" else f"{amount / 1e6:.3g} MB"


def budget(latency: str | None, macs: float | None, size: str | None) -> Budget:
    """Of the command's three options, the one that was given."""
    if sum(option is not None for option in (latency, macs, size)) != 1:
        raise InputError("wanted one budget", hint="give one of --latency 5ms, --macs 0.5 and --size 4MB")
    if latency is not None:
        return Budget("latency", _amount("--latency", latency, _MS, "5ms"))
    if size is not None:
        return Budget("size", _amount("--size", size, _BYTES, "4MB"))
    assert macs is not None
    if not 0 < macs <= 1:
        raise InputError(f"--macs {macs:g} is no share", hint="give more than 0 and at most 1: 0.5 is half of them")
    return Budget("macs", macs)


def _amount(option: str, text: str, units: dict[str, float], like: str) -> float:
    found = _NUMBER.fullmatch(text)
    if found is None or found[2] not in units or not float(found[1]):
        raise InputError(
            f"{option} {text[:40]!r} is no amount above 0 with a unit",
            hint=f"write it as {like}; units are {', '.join(units)}",
        )
    return float(found[1]) * units[found[2]]
