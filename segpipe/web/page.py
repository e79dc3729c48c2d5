"""One HTML file with everything inside: style, script, and for a page that runs by itself the graph and the runtime."""

import base64
import gzip
import hashlib
import html
import json
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from segpipe import __version__
from segpipe.artifacts import END_TO_END, END_TO_END_GRAPH, EXPORT
from segpipe.contract.schema import Contract
from segpipe.errors import ArtifactMissingError, InputError, word
from segpipe.palette import Colours, read_palette
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.storage import sha256_of_bytes, write_atomically
from segpipe.runtime.opening import run_contract
from segpipe.verdict import require_passed
from segpipe.web.runtime import PACKAGE, WebRuntime, read_runtime

_WORKER = ("png.js", "engine.js", "picture.js", "worker.js")  # what takes long, on a thread of its own
_SCRIPT = "page.js"
_MOST_PIXELS = 8_000_000  # larger pictures are reduced: a browser has a few GB for the page
_MOST_VALUES = 40_000_000  # scores at the picture's size
_SERVER = "segpipe"
_HERE = "Segments in this page, on this device: nothing is uploaded, and the page opens no connection."
_THERE = "Pictures go to the server that this page came from, and nowhere else."


@dataclass(frozen=True)
class Shown:
    """What a page is about."""

    name: str
    contract: Contract
    palette: Colours


@dataclass(frozen=True)
class _Words:
    """What the two kinds of page say differently: where pictures go, what it is made of, what it may connect to."""

    where: str
    about: str
    connect: str


def write_page(run: RunDirectory, out: Path, runtime: Path | None, allow_unvalidated: bool = False) -> Path:
    """A file that segments by itself wherever it is opened."""
    if out.is_dir():
        raise InputError(f"{out} is a folder", hint="name a file, such as page.html")
    shown, graph = run.at_one_moment(lambda: _read(run, allow_unvalidated))
    write_atomically(out, own_page(shown, graph, read_runtime(runtime)).encode())
    return out


def own_page(shown: Shown, graph: bytes, runtime: WebRuntime) -> str:
    """The page with the graph and the runtime inside."""
    data = {"graph": graph}
    for device, (code, binary) in runtime.files.items():
        data |= {f"{device}-code": code, f"{device}-binary": binary}
    most = min(_MOST_PIXELS, _MOST_VALUES // shown.contract.score_channels)
    boot = {
        "classes": shown.contract.classes, "palette": shown.palette, "server": False, "most_pixels": most
    }  # fmt: skip
    licence = html.escape(f"{PACKAGE} {runtime.version}, licence MIT. {runtime.notice}")
    about = (
        f"<p>Graph {sha256_of_bytes(graph)[:12]}, which the release gate judges with ONNX Runtime on a CPU; made by "
        f"segpipe {__version__}.</p><details><summary>Licence of {PACKAGE}</summary><pre>{licence}</pre></details>"
    )
    return _filled(f"segpipe: {shown.name}", boot, data, _Words(_HERE, about, "'none'"))


def served_page() -> str:
    """The page that asks the server that it came from: GET model for the classes, POST segment for masks."""
    boot = {"server": True, "most_pixels": _MOST_PIXELS}
    about = f"<p>segpipe {__version__}. The paths of this server are listed at /docs.</p>"
    return _filled(_SERVER, boot, {}, _Words(_THERE, about, "'self'"))


def require_pictures(contract: Contract) -> None:
    """A browser has pictures of 8 bits in colour, and nothing else."""
    if (contract.channels, contract.dtype) != (3, "uint8"):
        raise InputError(
            f"browsers have 8-bit pictures in colour, this network takes {contract.dtype} HxWx{contract.channels}",
            hint="use segpipe.Segmenter, or the end-to-end graph in a program of your own",
        )


def _read(run: RunDirectory, allow_unvalidated: bool) -> tuple[Shown, bytes]:
    contract = run_contract(run)
    require_pictures(contract)
    make = f"`segpipe export {word(run.path)} --end-to-end` and `segpipe validate {word(run.path)}`"
    if END_TO_END_GRAPH not in run.record(EXPORT).outputs:
        where = " where its run is, and make the bundle again" if run.manifest.is_bundle else ""
        raise ArtifactMissingError(f"{run.path} has no {END_TO_END_GRAPH}", hint=f"run {make}{where}")
    if not allow_unvalidated:
        require_passed(run, run.recorded(EXPORT, END_TO_END_GRAPH).sha256, END_TO_END)
    graph = run.artifact_bytes(EXPORT, END_TO_END_GRAPH)
    return Shown(run.path.resolve().name, contract, read_palette(run, EXPORT, contract)), graph


def _filled(title: str, boot: dict[str, Any], data: dict[str, bytes], words: _Words) -> str:
    script, worker = _part(_SCRIPT), "\n".join(map(_part, _WORKER))
    elements = [_json("boot", boot), _json("worker", worker), *(_packed(*part) for part in data.items())]
    parts = {
        "policy": _policy(script, words.connect),
        "title": html.escape(title),
        "style": _part("page.css"),
        "where": html.escape(words.where),
        "about": words.about,
        "data": "\n".join([*elements]),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _part("page.html"))


def _policy(script: str, connect: str) -> str:
    """The browser itself holds the page to it: this script, what it unpacks, and no connection."""
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{own}' 'wasm-unsafe-eval' blob:; style-src 'unsafe-inline'; "
        f"img-src data: blob:; media-src blob:; connect-src {connect}; base-uri 'none'; form-action 'none'"
    )


def _part(name: str) -> str:
    return files("segpipe.web").joinpath("page", name).read_text(encoding="utf-8")


def _json(name: str, content: Any) -> str:
    """JSON that cannot end its element, whatever classes are called."""
    text = json.dumps(content).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _packed(name: str, content: bytes) -> str:
    """A quarter of the size; the same bytes for the same content."""
    text = base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
    return f'<script type="text/plain" id="{name}">{text}</script>'
