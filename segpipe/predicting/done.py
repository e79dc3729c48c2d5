"""What counts as done: every picture carries, inside its own file, what it was made from.

Picture and record are one PNG, so one rename writes both and no kill can part them. What is read back counts only when
its record names the same source bytes, artifact, contract and options, and the rest of the file is what was written.
Times prove nothing: an older file moved over a source keeps its own. So a source is hashed; beside segmenting that is
cheap. A video's pictures are many files: their record lies among them and is written last. A raster's mask is a TIFF
too large for memory: its record lies behind it, with the hash of all bytes before.

Records also say what is segpipe's: a file without one is somebody's, whatever its name.
"""

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from segpipe.artifacts import ARTIFACTS, ON_CPU
from segpipe.errors import InputError
from segpipe.media import RASTERS, tail_notes
from segpipe.media.files import open_regular, read_regular
from segpipe.media.mp4 import append_note, read_note
from segpipe.rundir.storage import explained_reads, explained_refusals, sha256_of, sha256_of_bytes, write_atomically

RECORD = ".segpipe.json"
"""The record of a folder of pictures."""

_FORMAT = 1  # of records; a new number when the same options come to mean other pixels
_BEGIN = 33  # where PNG's first chunk, IHDR, ends
_TEXT = b"tEXt"
_PIECE_BYTES = 1 << 20
_KEYWORD = b"segpipe\0"
_MADE_FROM = "made_from"
"""The entry of a JSON object that is its record."""


@dataclass(frozen=True)
class Source:
    """The file that was segmented."""

    path: Path | str
    """Where it lay, from the root. One that moved is the same source; one that broke is known again by its place. A
    live source's address, without its password."""
    size_bytes: int
    sha256: str

    @classmethod
    def of_bytes(cls, path: Path, data: bytes) -> "Source":
        """Of what was read from `path`."""
        return cls(place(path), len(data), sha256_of_bytes(data))

    @classmethod
    def of_file(cls, path: Path, file: BufferedReader) -> "Source":
        """Of an open file too large to be held in memory."""
        file.seek(0)
        with explained_reads(path):
            return cls(place(path), os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def place(path: Path) -> Path:
    """A file's name from the root, the same from every working directory; the file itself may be a link."""
    return path.parent.resolve() / path.name


@dataclass(frozen=True)
class Origin:
    """All that decides what a picture shows."""

    source: Source
    artifact_sha256: str
    contract_sha256: str
    backend: str
    device: str
    """As in verdicts: one file gives other numbers on another backend, or with other instructions."""
    options: Mapping[str, Any]
    """Those that change pixels, as JSON takes them."""

    def as_dict(self) -> dict[str, Any]:
        """The record, without the hash of what it is about."""
        source = {"path": str(self.source.path), "bytes": self.source.size_bytes, "sha256": self.source.sha256}
        return {
            "format": _FORMAT,
            "source": source,
            "artifact_sha256": self.artifact_sha256,
            "contract_sha256": self.contract_sha256,
            "backend": self.backend,
            "device": self.device,
            "options": dict(self.options),
        }

    def is_named_by(self, record: Any) -> bool:
        """Whether a record that was read is of this origin. Without an artifact's hash nothing is proved.

        Records of before name no backend: they count as of the one that alone runs the file, or runs it everywhere.
        """
        own = self.as_dict()
        if isinstance(record, dict) and "backend" not in record and _is_understood(self.backend):
            del own["backend"], own["device"]
        return bool(self.artifact_sha256) and _without_path(record) == _without_path(own)


def seal(png: bytes, origin: Origin) -> bytes:
    """The PNG with its record in it, as its first text."""
    record = origin.as_dict() | {"png_sha256": sha256_of_bytes(png)}
    body = _TEXT + _KEYWORD + json.dumps(record, sort_keys=True).encode("ascii")
    chunk = struct.pack(">I", len(body) - len(_TEXT)) + body + struct.pack(">I", zlib.crc32(body))
    return png[:_BEGIN] + chunk + png[_BEGIN:]


def seal_json(content: Mapping[str, Any], origin: Origin) -> bytes:
    """A JSON object with its record in it, as its last entry."""
    record = origin.as_dict() | {"json_sha256": _content_sha256(content)}
    return json.dumps({**content, _MADE_FROM: record}, indent=1).encode("ascii")


def write_json(file: Path, sealed: bytes) -> None:
    """Into a folder that may be missing."""
    with explained_refusals(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, sealed)


def seal_video(video: Path, origin: Origin) -> None:
    """Add the record to an MP4, as its last box."""
    append_note(video, json.dumps(origin.as_dict(), sort_keys=True).encode("ascii"))


def seal_raster(tiff: Path, origin: Origin, shows: Mapping[str, Any]) -> None:
    """Add the record to a TIFF that is whole, behind its last byte, with what was counted in it."""
    record = origin.as_dict() | {"tiff_sha256": sha256_of(tiff), "shows": dict(shows)}
    with tiff.open("ab") as file:
        file.write(tail_notes.as_note(json.dumps(record, sort_keys=True).encode("ascii")))
        file.flush()
        os.fsync(file.fileno())


def is_done(picture: Path, origin: Origin) -> bool:
    """Whether this file is the picture, or the JSON, of this origin as it was written."""
    if picture.suffix == ".json":
        return proves_json(_read(picture), origin)
    if picture.suffix not in RASTERS:
        return proves(_read(picture), origin)
    try:
        with open_regular(picture) as file:
            return proves_raster(file, origin)
    except (InputError, OSError):
        return False


def proves_raster(file: BinaryIO, origin: Origin) -> bool:
    """Whether an open TIFF is the mask of this origin, byte for byte as it was written."""
    note = tail_notes.read_note(file)
    record = _parsed(note.text)
    wanted, _ = record.pop("tiff_sha256", ""), record.pop("shows", None)
    return origin.is_named_by(record) and wanted == _sha256_of_first(file, note.begin)


def record_of_raster(file: BinaryIO) -> dict[str, Any]:
    """The record behind a TIFF; an empty one where there is none."""
    return _named(_parsed(tail_notes.read_note(file).text))


def proves(sealed: bytes, origin: Origin) -> bool:
    """The same for the bytes of a file."""
    record, png = _unsealed(sealed)
    return record.pop("png_sha256", "") == sha256_of_bytes(png) and origin.is_named_by(record)


def proves_json(sealed: bytes, origin: Origin) -> bool:
    """The same for the bytes of a JSON file."""
    return _json_proves(_parsed(sealed), origin)


def json_in(sealed: bytes) -> dict[str, Any]:
    """What was sealed, without its record; an empty object where the bytes are none."""
    content = _parsed(sealed)
    content.pop(_MADE_FROM, None)
    return content


def record_of_json(sealed: bytes) -> dict[str, Any]:
    """The record in a JSON file's bytes; an empty one where there is none."""
    record = _parsed(sealed).get(_MADE_FROM)
    return _named(record) if isinstance(record, dict) else {}


def record_in(file: Path) -> dict[str, Any]:
    """The record that one written file carries, damaged or not; an empty one where there is none, or behind a link."""
    if file.is_symlink():
        return {}
    if file.name == RECORD:
        return _named(_parsed(_read(file)))
    if file.suffix == ".json":
        return record_of_json(_read(file))
    if file.suffix == ".mp4":
        return _named(_parsed(_note(file)))
    if file.suffix in RASTERS:
        return _named(_parsed(_tail(file)))
    return record_of(_read(file))


def record_of(png: bytes) -> dict[str, Any]:
    """The record in a PNG's bytes; an empty one where there is none."""
    return _named(_unsealed(png)[0])


def _json_proves(content: dict[str, Any], origin: Origin) -> bool:
    record = content.pop(_MADE_FROM, None)
    named = isinstance(record, dict) and record.pop("json_sha256", "") == _content_sha256(content)
    return named and origin.is_named_by(record)


def _content_sha256(content: Mapping[str, Any]) -> str:
    return sha256_of_bytes(json.dumps(content, sort_keys=True).encode("ascii"))


def _named(record: dict[str, Any]) -> dict[str, Any]:
    return record if isinstance(record.get("source"), dict) else {}


def _unsealed(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The record of a PNG, empty where it has none, and the PNG without it."""
    length = int.from_bytes(data[_BEGIN : _BEGIN + 4])
    body = data[_BEGIN + 4 : _BEGIN + 8 + length]
    if not body.startswith(_TEXT + _KEYWORD):
        return {}, data
    return _parsed(body[len(_TEXT + _KEYWORD) :]), data[:_BEGIN] + data[_BEGIN + 12 + length :]


def _note(video: Path) -> bytes:
    try:
        with open_regular(video) as file:
            return read_note(file)
    except (InputError, OSError):
        return b""


def _tail(tiff: Path) -> bytes:
    try:
        with open_regular(tiff) as file:
            return tail_notes.read_note(file).text
    except (InputError, OSError):
        return b""


def _sha256_of_first(file: BinaryIO, count: int) -> str:
    """Of so many bytes from a file's beginning."""
    digest = hashlib.sha256()
    file.seek(0)
    while count > 0 and (data := file.read(min(count, _PIECE_BYTES))):
        digest.update(data)
        count -= len(data)
    return digest.hexdigest()


def write_record(folder: Path, origin: Origin, outputs: Mapping[str, str]) -> None:
    """Vouch for the outputs of a video, name to SHA-256, in the folder of its masks."""
    record = origin.as_dict() | {"outputs": dict(outputs)}
    write_atomically(folder / RECORD, json.dumps(record, indent=2, sort_keys=True).encode("ascii"))


def recorded_outputs(folder: Path, origin: Origin) -> dict[str, str]:
    """What the folder's record vouches for, name to SHA-256; nothing when it is of another origin."""
    record = _parsed(_read(folder / RECORD))
    outputs = record.pop("outputs", {})
    return outputs if origin.is_named_by(record) and isinstance(outputs, dict) else {}


def written_in(folder: Path) -> list[Path]:
    """What was written into a folder for a video, a file for each frame; not the record."""
    return sorted(path for path in folder.iterdir() if path.suffix in {".png", ".json"} and path.name != RECORD)


def pictures_sha256(folder: Path) -> str:
    """Of the names and bytes of all that was written into a folder."""
    digest = hashlib.sha256()
    for path in written_in(folder):
        digest.update(f"{path.name} {sha256_of_bytes(_read(path))}\n".encode())
    return digest.hexdigest()


def _read(path: Path) -> bytes:
    """Its bytes; none where there is no such file, or nothing that can be read."""
    try:
        return read_regular(path)
    except InputError:
        return b""


def _parsed(text: bytes) -> dict[str, Any]:
    """A record; an empty one where the text is none."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):  # not JSON, or not UTF-8
        return {}
    return record if isinstance(record, dict) else {}


def _is_understood(backend: str) -> bool:
    """Whether a mask of its file is its own where nothing else is said."""
    row = ARTIFACTS.get(backend)
    return row == ON_CPU or (row is not None and [other.file for other in ARTIFACTS.values()].count(row.file) == 1)


def _without_path(record: Any) -> Any:
    source = record.get("source") if isinstance(record, dict) else None
    if not isinstance(source, dict):
        return None
    return record | {"source": {key: value for key, value in source.items() if key != "path"}}
