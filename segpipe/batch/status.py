"""How far a batch is, told by its output folder alone: the index, and what each driver noted when it wrote to it."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter

from segpipe.batch.index import Files, at_one_moment
from segpipe.batch.latest import Latest
from segpipe.batch.stores import Store, open_store, plain
from segpipe.batch.version import FILE_NAME
from segpipe.documents import Form
from segpipe.errors import InputError

FOLDER = "state"
_Count = Annotated[int, Field(ge=0, lt=1 << 53, strict=True)]


class _Noted(BaseModel):
    """What is read of a State that was written."""

    session: _Count
    shard: str = Field(pattern=r"^[0-9]{1,9}of[0-9]{1,9}$")
    found: _Count
    images_per_s: float = Field(ge=0, le=1e9, allow_inf_nan=False, strict=True)
    noted_utc: str = Field(pattern=r"^[0-9TZ:-]{1,30}$")


_FORM = Form("state of a batch", TypeAdapter(_Noted), InputError)


@dataclass(frozen=True)
class State:
    """What one driver knows."""

    folder: str
    """Of the version."""
    session: int
    shard: str
    found: int
    """Images of its shard."""
    skipped: int
    """Of these, done before."""
    done: int = 0
    broken: int = 0
    seconds: float = 0.0
    """Since the first image that was not skipped."""

    @property
    def left(self) -> int:
        """Images that nobody tried yet."""
        return max(0, self.found - self.skipped - self.done - self.broken)

    @property
    def images_per_s(self) -> float:
        """In this session; 0 where nothing was done yet."""
        return (self.done + self.broken) / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self) | {"left": self.left, "images_per_s": round(self.images_per_s, 3)}

    def write(self, store: Store) -> None:
        """Note it beside the index."""
        noted = self.as_dict() | {"noted_utc": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
        store.write(f"{FOLDER}/{self.shard}.json", json.dumps(noted, indent=2).encode("ascii"))


@dataclass(frozen=True)
class Status:
    """What has become of the images of one version."""

    folder: str
    found: int
    done: int
    broken: dict[str, str] = field(default_factory=dict)
    """Why, by name."""
    images_per_s: float = 0.0
    """Of all drivers, when each noted it last."""
    noted_utc: str = ""
    """When a driver last did."""

    @property
    def left(self) -> int:
        """Images that have no row yet."""
        return max(0, self.found - self.done - len(self.broken))

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        own = asdict(self) | {"images_per_s": round(self.images_per_s, 3), "left": self.left}
        return own | {"seconds_left": round(self.left / self.images_per_s) if self.left and self.images_per_s else None}


def status(address: str) -> list[Status]:
    """Of every version in an output folder."""
    return [_of_version(f"{plain(address)}/{name}") for name in versions_in(address)]


def versions_in(address: str) -> list[str]:
    """Names of the versions in an output folder, one at least."""
    out = open_store(address)
    versions = [folder for folder in out.folders() if out.entry(f"{folder}/{FILE_NAME}")]
    if not versions:
        raise InputError(f"{address} holds no batch", hint="name the folder that was given to --out")
    return versions


def _of_version(address: str) -> Status:
    store = open_store(address)
    tried, broken = at_one_moment(store, _counted)
    states = [*_states(store)]
    of = max((state.session, state.shard.partition("of")[2]) for state in states)[1] if states else "1"
    states = [state for state in states if state.shard.endswith(f"of{of}")]
    return Status(
        address, sum(state.found for state in states), tried - len(broken), broken,
        sum(state.images_per_s for state in states), max((state.noted_utc for state in states), default=""),
    )  # fmt: skip


def _counted(files: Files) -> tuple[int, dict[str, str]]:
    """How many images have a row, and why some are broken."""
    latest = Latest.of(files)
    return len(latest.keys), latest.why_broken(files)


def _states(store: Store) -> Iterator[_Noted]:
    for entry in store.entries(FOLDER):
        name = store.address(entry.name)
        yield _FORM.read(store.read(entry.name).data, name, "delete it: the next run notes it again")


def duration(seconds: float) -> str:
    """In words: two units at most."""
    minutes, hours, days = round(seconds / 60), seconds / 3600, seconds / 86400
    if minutes < 1:
        return "less than a minute"
    if minutes < 90:
        return f"{minutes} min"
    return f"{hours:.1f} h" if hours < 48 else f"{days:.1f} days"
