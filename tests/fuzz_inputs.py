"""Valid files, changed at random, and who reads them: each change gives a result or a typed error.

`tests/test_fuzz.py` tries a few changes of each, `make soak` as many as an hour allows.
"""

import json
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import tomli_w
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segpipe import draw, verdict
from segpipe.contract.schema import Contract
from segpipe.errors import SegpipeError
from segpipe.media.images import read_image
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.status import run_status
from segpipe.rundir.storage import sha256_of_bytes
from segpipe.rundir.verify import verify
from segpipe.runtime.segmenter import Segmenter
from segpipe.testing import CONTRACT, make_frame, make_onnx, make_run
from stages.config.file import load_config
from stages.graphs.apart import ChildLimits, call_apart
from stages.import_model import read_description

_TEMPLATES = Path(__file__).parents[1] / "stages/templates"
_ONNX_LIMITS = ChildLimits(cpu_s=600, wall_s=1800, memory_bytes=4 << 30)
_ONNX_AT_ONCE = 10
_CONTRACT = {
    "classes": ["a", "b", "c"], "network_size": [16, 24], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
    "palette": [[0, 0, 0], [255, 0, 0], [0, 255, 0]], "data": {"kind": "folder", "root": "data", "ignore_index": 255},
}  # fmt: skip

_ODD_TEXT = ["", "\x00", "../../etc/passwd", "/dev/zero", "é", "🚗", "\x1b[2J", "a" * 5000, "NaN", "-1", "\u2028"]
_ODD_NUMBERS = [0, -1, 1, 255, 256, 65536, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.0, -0.0, 1e308, 5e-324]
_ODD_BYTES = [b"", b"\x00", b"\xff", b"\xff" * 8, b"\x80" * 10, b"\x00" * 300, b"\x7f\xff\xff\xff", b"[" * 3000]
_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from(_ODD_TEXT), st.sampled_from(_ODD_NUMBERS),
)  # fmt: skip
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def changed_bytes(good: bytes) -> st.SearchStrategy[bytes]:
    """Bits flipped, pieces taken out, doubled, overwritten; the end cut off."""
    place = st.integers(0, max(0, len(good) - 1))
    length = st.integers(0, 64)
    change = st.one_of(
        st.tuples(st.just("flip"), place, st.integers(1, 255)),
        st.tuples(st.just("cut"), place, length),
        st.tuples(st.just("double"), place, length),
        st.tuples(st.just("insert"), place, st.binary(max_size=16) | st.sampled_from(_ODD_BYTES)),
        st.tuples(st.just("replace"), place, st.binary(max_size=16) | st.sampled_from(_ODD_BYTES)),
        st.tuples(st.just("end"), place, st.just(0)),
    )
    return st.lists(change, min_size=1, max_size=6).map(lambda changes: _apply(good, changes))


def _apply(data: bytes, changes: list[tuple[str, int, Any]]) -> bytes:
    for kind, at, what in changes:
        head, tail = data[:at], data[at:]
        match kind:
            case "flip":
                data = head + bytes([tail[0] ^ what]) + tail[1:] if tail else head
            case "cut":
                data = head + tail[what:]
            case "double":
                data = head + tail[:what] + tail
            case "insert":
                data = head + what + tail
            case "replace":
                data = head + what + tail[len(what) :]
            case _:
                data = head
    return data


@st.composite
def changed_tree(draw: st.DrawFn, good: Any) -> Any:
    """JSON or TOML with some values, keys or entries exchanged for others."""
    tree = deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        owner, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["value", "delete", "rename", "copy"])):
            case "value":
                owner[key] = draw(_values)
            case "delete":
                del owner[key]
            case "rename" if isinstance(owner, dict):
                owner[draw(st.text(max_size=10) | st.sampled_from(_ODD_TEXT))] = owner.pop(key)
            case _:
                other, name = draw(st.sampled_from(places))
                owner[key] = deepcopy(other.get(name)) if isinstance(other, dict) else draw(_values)
        if not tree:
            break
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in the tree, as its owner and its key there."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        yield tree, key
        yield from _places(value)


@dataclass(frozen=True)
class Reader:
    """How a valid file may change, and what is done with a changed one. Some take many at once."""

    changes: st.SearchStrategy[Any]
    read: Callable[[Any], object]
    at_once: int = 1


def fuzz(reader: Reader, cases: int, number: int) -> int:
    """How many changed files were read; what is neither a result nor a SegpipeError is raised, as small as it gets."""
    tried = 0

    @seed(number)
    @settings(
        max_examples=max(1, cases // reader.at_once), database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, *([Phase.shrink] if reader.at_once == 1 else [])],  # a batch is long to make smaller
    )  # fmt: skip
    @given(reader.changes)
    def check(data: Any) -> None:
        nonlocal tried
        tried += reader.at_once
        with suppress(SegpipeError):
            reader.read(data)

    check()
    return tried


NAMES = ("manifest", "verdicts", "palette", "contract", "config", "contract.toml", "image", "onnx")


def reader_of(name: str, folder: Path) -> Reader:
    """For each kind of file that may come from elsewhere; `folder` is its own."""
    make = {
        "manifest": _manifest,
        "verdicts": lambda folder: _stored(make_run(folder / "run"), verdict.STAGE, verdict.FILE_NAME),
        "palette": lambda folder: _stored(make_run(folder / "run"), "export", "palette.json"),
        "contract": lambda _: Reader(_changed_json(CONTRACT.to_json().encode()), _use_contract),
        "config": _config,
        "contract.toml": _description,
        "image": _image,
        "onnx": _onnx,
    }[name]
    return make(folder)


def _manifest(folder: Path) -> Reader:
    file = make_run(folder / "run") / "manifest.json"
    return Reader(_changed_json(file.read_bytes()), lambda data: _use(_put(file, data)))


def _config(folder: Path) -> Reader:
    texts = (path.read_bytes() for path in sorted(_TEMPLATES.glob("*.toml")))
    return Reader(st.one_of(*map(_changed_toml, texts)), lambda data: load_config(_put(folder / "a.toml", data)))


def _description(folder: Path) -> Reader:
    good = tomli_w.dumps(_CONTRACT).encode()
    return Reader(_changed_toml(good), lambda data: read_description(_put(folder / "contract.toml", data)))


def _image(folder: Path) -> Reader:
    pictures = st.one_of(*map(changed_bytes, _pictures()))
    return Reader(pictures, lambda data: _see(_put(folder / "picture", data)))


@dataclass(frozen=True)
class _Graphs:
    """Too long to be printed; the folder holds the last ones."""

    files: list[bytes] = field(repr=False)


def _onnx(folder: Path) -> Reader:
    changed = st.one_of(changed_bytes(make_onnx(CONTRACT)), _changed_graph())
    batch = st.lists(changed, min_size=_ONNX_AT_ONCE, max_size=_ONNX_AT_ONCE).map(_Graphs)
    return Reader(batch, lambda many: _adopt_apart(many, folder), _ONNX_AT_ONCE)


def _changed_json(good: bytes) -> st.SearchStrategy[bytes]:
    trees = changed_tree(json.loads(good)) | _values
    return changed_bytes(good) | trees.map(lambda tree: json.dumps(tree).encode())


def _changed_toml(good: bytes) -> st.SearchStrategy[bytes]:
    return changed_bytes(good) | changed_tree(tomllib.loads(good.decode())).map(_as_toml)


def _as_toml(tree: Any) -> bytes:
    """JSON where TOML has no word for it, such as null: another wrong file."""
    try:
        return tomli_w.dumps(tree).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError):
        return json.dumps(tree).encode()


@st.composite
def _changed_graph(draw: st.DrawFn) -> bytes:
    """A graph with one number, text or message exchanged for another: valid protobuf, nonsense as a network."""
    model = onnx.load_model_from_string(make_onnx(CONTRACT))
    for _ in range(draw(st.integers(1, 3))):
        message, kind = draw(st.sampled_from(list(_fields(model))))
        try:
            _exchange(message, kind, draw(_scalars), draw(st.integers(0, 3)))
        except (TypeError, ValueError, AttributeError):  # protobuf refuses it by itself
            continue
    data: bytes = model.SerializeToString()
    return data


def _fields(message: Any) -> Iterator[tuple[Any, Any]]:
    for kind, value in message.ListFields():
        yield message, kind
        if kind.type == kind.TYPE_MESSAGE:
            for inner in value if kind.is_repeated else (value,):
                yield from _fields(inner)


def _exchange(message: Any, kind: Any, value: Any, how: int) -> None:
    if how == 0:
        message.ClearField(kind.name)
    elif kind.is_repeated and kind.type == kind.TYPE_MESSAGE:
        getattr(message, kind.name).extend(list(getattr(message, kind.name))[:how])
    elif kind.is_repeated:
        getattr(message, kind.name).append(value)
    else:
        setattr(message, kind.name, value.encode() if kind.type == kind.TYPE_BYTES else value)


def _stored(run: Path, stage: str, name: str) -> Reader:
    """A file of a stage; the manifest vouches for what it has become, as a stranger's would."""
    good, path = (run / "manifest.json").read_bytes(), RunDirectory(run).artifact(stage, name)

    def read(data: bytes) -> None:
        _put(path, data)
        record = json.loads(good)
        record["stages"][stage]["outputs"][name] = {"sha256": sha256_of_bytes(data), "size_bytes": len(data)}
        _use(_put(run / "manifest.json", json.dumps(record).encode()))

    return Reader(_changed_json(path.read_bytes()), read)


def _use(manifest: Path) -> None:
    """What people do with a run that somebody gave them: the first thing that refuses it may be any of these."""
    run = RunDirectory(manifest.parent)
    for look in (run_status, verify):
        with suppress(SegpipeError):
            look(run)
    frame, _ = make_frame(40, 60)
    with Segmenter.open(manifest.parent, "onnxruntime-cpu") as segmenter:
        assert segmenter(frame).shape == (40, 60)
        draw.overlay(frame, segmenter(frame), segmenter.palette)


def _use_contract(data: bytes) -> None:
    contract = Contract.from_json(data, "it")
    assert Contract.from_json(contract.to_json(), "it again") == contract
    contract.place(40, 60)


def _see(path: Path) -> None:
    pixels = read_image(path, max_pixels=1 << 24)
    assert pixels.ndim == 3
    assert 0 < pixels.size <= 4 << 24


def _pictures() -> list[bytes]:
    """One of each format, colour and grey, 8 bits and 16."""
    colour, grey = make_frame(16, 24)
    deep = grey.astype(np.uint16) * 257
    pairs: list[tuple[str, NDArray[Any]]] = [
        (".png", colour), (".png", deep), (".jpg", colour), (".webp", colour), (".bmp", grey), (".tiff", deep)
    ]  # fmt: skip
    return [cv2.imencode(suffix, pixels)[1].tobytes() for suffix, pixels in pairs]


def _put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _adopt_apart(many: _Graphs, folder: Path) -> None:
    """In one child, which takes a second to start; one that dies is what `import` makes an error of."""
    for number, data in enumerate(many.files):
        _put(folder / f"{number}.onnx", data)
    paths = [str(folder / f"{number}.onnx") for number in range(len(many.files))]
    call_apart(adopt_each, "a batch of graphs", _ONNX_LIMITS, paths=paths, contract=CONTRACT.to_json())


def adopt_each(paths: list[str], contract: str) -> bytes:
    """The child's part: an error that is not ours ends it with a traceback."""
    from stages.graphs import foreign

    for path in paths:
        with suppress(SegpipeError, MemoryError, RecursionError):
            foreign.adopted(path, contract)
    return b""
