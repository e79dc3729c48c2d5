"""ONNX Runtime for browsers, out of its npm package: read from a folder or from what `npm pack` leaves."""

import re
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from segpipe.documents import plain_json
from segpipe.errors import InputError
from segpipe.rundir.storage import open_regular, read_bounded

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
"""What the page was tried with."""
DEVICES = {
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}
"""For each way to run, the package's code and binary. The second runs on both, and slower on a CPU."""
_LARGEST_BYTES = 64 << 20  # of one file; the largest has 27 MB
_GET = f"run `npm pack {PACKAGE}@{VERSION}` and give --runtime {PACKAGE}-{VERSION}.tgz"
_LICENCE = "MIT"

_Read = Callable[[str], bytes]
"""A file of the package by its path there; FileNotFoundError where there is none."""


@dataclass(frozen=True)
class WebRuntime:
    """Code and binary for each device, and what the licence wants said."""

    version: str
    files: dict[str, tuple[bytes, bytes]]
    notice: str


def read_runtime(path: Path | None) -> WebRuntime:
    """The package's files; `path` is its folder, a folder that has it in node_modules, or its archive."""
    if path is None:
        raise InputError(f"a page that runs by itself needs {PACKAGE}", hint=_GET)
    if not path.exists():
        raise InputError(f"{path} does not exist", hint=_GET)
    read = _of_folder(path) if path.is_dir() else _of_archive(path)
    try:
        about = plain_json(read("package.json"), f"package.json of {path}", InputError, _GET)
        if not isinstance(about, dict) or about.get("name") != PACKAGE:
            raise InputError(f"{path} is another package than {PACKAGE}", hint=_GET)
        held = {device: (read(f"dist/{code}"), read(f"dist/{binary}")) for device, (code, binary) in DEVICES.items()}
    except FileNotFoundError as error:
        raise InputError(f"{path} lacks {error.args[0]} of {PACKAGE}", hint=_GET) from None
    if about.get("license") != _LICENCE:
        raise InputError(f"{path} is not under the licence {_LICENCE}, whose text the page carries", hint=_GET)
    return WebRuntime(str(about.get("version")), held, _notice(held["wasm"][0]))


def _notice(code: bytes) -> str:
    """Who holds the copyright is said at the head of the code."""
    found = re.search(rb"Copyright \(c\) [^\n*]{1,80}", code[:1000])
    holder = found[0].decode(errors="replace").strip() if found else "Copyright (c) Microsoft Corporation"
    text = files("segpipe.web").joinpath("page", "mit-licence.txt").read_text(encoding="utf-8")
    return f"{holder}\n\n{text}"


def _of_folder(path: Path) -> _Read:
    roots = [path, path / "node_modules" / PACKAGE, path / PACKAGE, path / "package", path.parent]
    root = next((root for root in roots if (root / "package.json").is_file()), path)

    def read(name: str) -> bytes:
        if not (root / name).is_file():
            raise FileNotFoundError(name)
        return read_bounded(root / name, _LARGEST_BYTES)

    return read


def _of_archive(path: Path) -> _Read:
    """Nothing is unpacked: the files that are wanted are read into memory."""
    wanted = {"package.json", *(f"dist/{name}" for names in DEVICES.values() for name in names)}
    found: dict[str, bytes] = {}
    try:
        with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix("package/")
                content = archive.extractfile(member) if name in wanted and member.isreg() else None
                if content is not None and member.size <= _LARGEST_BYTES:
                    found[name] = content.read()
                if found.keys() == wanted:
                    break
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise InputError(f"{path} is no archive of {PACKAGE}: {error}", hint=_GET) from error

    def read(name: str) -> bytes:
        if name not in found:
            raise FileNotFoundError(name)
        return found[name]

    return read
