"""The page for a browser: whole in one file, closed to the outside, labelled, and refused where it could not work."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import onnx
import pytest

from segpipe import testing
from segpipe.artifacts import END_TO_END, END_TO_END_GRAPH, EXPORT
from segpipe.contract.schema import Contract
from segpipe.errors import InputError
from segpipe.rundir.directory import RunDirectory
from segpipe.verdict import FILE_NAME, STAGE
from segpipe.web.page import Shown, own_page, require_pictures, served_page
from segpipe.web.runtime import DEVICES, VERSION, WebRuntime, read_runtime
from stages.graphs.end_to_end import end_to_end
from tests.calling import call
from tests.children import PATIENCE_S
from tests.trained import replace_output

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = Contract(classes=("</script><script>alert(1)", "{{script}}", '"><b>'), network_size=(32, 32))
RUNTIME = WebRuntime("9.9", dict.fromkeys(DEVICES, (b"code", b"binary")), "Copyright (c) <somebody>")
PAGES = {
    "own": own_page(Shown("<b>run</b>", HOSTILE, ((0, 0, 0),) * 3), b"graph", RUNTIME),
    "served": served_page(),
}


class Parsed(HTMLParser):
    """Elements with their attributes, and the text of each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and data.strip():
            self.scripts.append(data)

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


class Watched:
    """A server of a page, and of one around it that waits until the page is ready or has failed, and tells its HTML.

    Chromium's virtual time would not wait for a worker.
    """

    AROUND = """<iframe src="/page"></iframe><img src="/wait"><script>
    const timer = setInterval(() => {
      const {documentElement: page} = document.querySelector("iframe").contentDocument;
      if (!["ready", "failed"].includes(page.dataset.state)) return;
      clearInterval(timer);
      fetch("/seen", {method: "POST", body: page.outerHTML});
    }, 50);</script>"""

    def __init__(self, page: str) -> None:
        self.seen = ""
        over, texts = Event(), {"/": self.AROUND, "/page": page}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805 - `self` is the watched page
                if handler.path == "/wait":
                    over.wait(PATIENCE_S)
                handler.answer(texts.get(handler.path, ""))

            def do_POST(handler) -> None:  # noqa: N805 - as above
                self.seen = handler.rfile.read(int(handler.headers["content-length"])).decode()
                handler.answer("")
                over.set()

            def answer(handler, text: str) -> None:  # noqa: N805 - as above
                handler.send_response(200)
                handler.send_header("content-type", "text/html; charset=utf-8")
                handler.end_headers()
                handler.wfile.write(text.encode())

            def log_message(handler, *_: object) -> None:  # noqa: N805 - as above
                """Nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> "Watched":
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.mark.parametrize("name", PAGES)
def test_it_loads_nothing_from_anywhere(name: str) -> None:
    loaded = [
        value
        for _, attributes in Parsed(PAGES[name]).elements
        for key, value in attributes.items()
        if key in {"src", "href", "action", "poster", "srcset"}
    ]

    assert loaded == ["data:,"]
    assert not re.search(r"https?://|@import|url\(", PAGES[name])


@pytest.mark.parametrize(("name", "connect"), [("own", "'none'"), ("served", "'self'")])
def test_the_browser_holds_it_to_its_own_script_and_connections(name: str, connect: str) -> None:
    parsed = Parsed(PAGES[name])
    policy = next(a["content"] for tag, a in parsed.elements if tag == "meta" and "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[-1].encode()).digest()).decode()

    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}' 'wasm-unsafe-eval' blob:;" in policy
    assert f"connect-src {connect};" in policy


@pytest.mark.parametrize("name", PAGES)
def test_every_control_has_a_label_and_every_name_in_the_script_is_an_element(name: str) -> None:
    parsed = Parsed(PAGES[name])
    ids, script = parsed.ids(), parsed.scripts[-1]
    labelled = {attributes["for"] for tag, attributes in parsed.elements if tag == "label"}
    controls = {attributes["id"] for tag, attributes in parsed.elements if tag in {"input", "select"}}
    used = set(re.findall(r'(?:\$|getElementById)\("([\w-]+)"\)', script))

    assert len(ids) == len(set(ids))
    assert controls <= labelled <= set(ids)
    assert used <= set(ids)
    assert dict(parsed.elements)["html"]["lang"] == "en"


def test_classes_and_names_cannot_leave_their_place() -> None:
    parsed = Parsed(PAGES["own"])

    assert json.loads(parsed.scripts[0])["classes"] == list(HOSTILE.classes)
    assert "<b>run</b>" not in PAGES["own"]
    assert "<somebody>" not in PAGES["own"]
    assert "alert(1)" not in "".join(parsed.scripts[1:])


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
def test_the_script_runs_under_its_own_policy_and_says_what_is_wrong(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    with Watched(PAGES["own"]) as watched:  # whose runtime is none
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                   f"--user-data-dir={tmp_path / 'profile'}",
                   "--dump-dom", watched.url]  # fmt: skip
        subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE_S)

    assert 'data-state="failed"' in watched.seen
    assert "This browser cannot open the network: code is not defined" in watched.seen
    assert watched.seen.count('class="swatch"') == len(HOSTILE.classes)


@pytest.mark.parametrize(
    "change", [{"channels": 1, "mean": (0,), "std": (1,), "channel_order": "as_is"}, {"dtype": "uint16"}]
)
def test_frames_that_no_browser_has_are_refused(change: dict[str, Any]) -> None:
    contract = Contract(classes=("a", "b"), network_size=(8, 8), **change)

    with pytest.raises(InputError, match="browsers have 8-bit pictures in colour, this network takes"):
        require_pictures(contract)


# --- the runtime -----------------------------------------------------------------------------------------------------


def package(folder: Path, name: str = "onnxruntime-web", **more: Any) -> Path:
    """What npm would have put there."""
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": name, "version": VERSION, "license": "MIT", **more}))
    for device, (code, binary) in DEVICES.items():
        (folder / "dist" / code).write_text(f"/*!\n * ORT\n * Copyright (c) Its Holder.\n */ {device}")
        (folder / "dist" / binary).write_bytes(b"\0asm")
    return folder


def packed(folder: Path) -> Path:
    """What `npm pack` leaves."""
    path = folder.with_suffix(".tgz")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "package")
    return path


@pytest.mark.parametrize("given", ["", "dist", "..", "tgz"])
def test_the_package_is_found_in_its_folder_above_it_and_in_its_archive(given: str, tmp_path: Path) -> None:
    folder = package(tmp_path / "node_modules" / "onnxruntime-web")
    path = packed(folder) if given == "tgz" else tmp_path if given == ".." else folder / given

    found = read_runtime(path)

    assert found.version == VERSION
    assert found.files["webgpu"][0].endswith(b"webgpu")
    assert found.notice.startswith("Copyright (c) Its Holder.\n\nPermission is hereby granted")


def test_a_runtime_that_is_missing_broken_or_another_names_the_command(tmp_path: Path) -> None:
    other = package(tmp_path / "other", name="left-pad")
    lacking = package(tmp_path / "lacking")
    (lacking / "dist" / DEVICES["wasm"][1]).unlink()
    paid = package(tmp_path / "paid", license="SEE LICENSE")
    cut = tmp_path / "cut.tgz"
    cut.write_bytes(packed(package(tmp_path / "whole")).read_bytes()[:200])
    text = tmp_path / "text.tgz"
    text.write_text("no archive")

    for path, words in (
        (None, "a page that runs by itself needs onnxruntime-web"),
        (tmp_path / "gone", "does not exist"),
        (other, "is another package than onnxruntime-web"),
        (lacking, r"lacks dist/ort-wasm-simd-threaded.wasm"),
        (packed(lacking), r"lacks dist/ort-wasm-simd-threaded.wasm"),
        (paid, "is not under the licence MIT"),
        (cut, "is no archive of onnxruntime-web"),
        (text, "is no archive of onnxruntime-web"),
        (tmp_path, "lacks package.json"),
    ):
        with pytest.raises(InputError, match=words) as refused:
            read_runtime(path)
        assert f"npm pack onnxruntime-web@{VERSION}" in refused.value.hint


def test_an_archive_may_hold_links_and_more(tmp_path: Path) -> None:
    path = packed(package(tmp_path / "package"))
    with tarfile.open(tmp_path / "odd.tgz", "w:gz") as odd, tarfile.open(path) as good:
        link = tarfile.TarInfo("package/package.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        odd.addfile(link)
        for member in good:
            odd.addfile(member, io.BytesIO(good.extractfile(member).read()) if member.isreg() else None)  # type: ignore[union-attr]

    assert read_runtime(tmp_path / "odd.tgz").version == VERSION


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made by hand, with the graph from frame to mask and its verdict. Shared."""
    path = testing.make_run(tmp_path_factory.mktemp("web") / "street")
    run = RunDirectory(path)
    graph = onnx.load_model_from_string(testing.make_onnx(testing.CONTRACT))
    whole = end_to_end(graph, testing.CONTRACT, confidence=True).SerializeToString()
    replace_output(run, EXPORT, END_TO_END_GRAPH, whole)
    run = RunDirectory(path)
    (judged,) = json.loads(run.artifact_bytes(STAGE, FILE_NAME))
    own = {"artifact_sha256": run.recorded(EXPORT, END_TO_END_GRAPH).sha256, "backend": END_TO_END}
    replace_output(run, STAGE, FILE_NAME, json.dumps([judged, judged | own]).encode())
    return path


def test_the_command_writes_one_file_with_the_graph_inside(whole_run: Path, tmp_path: Path) -> None:
    code, out, _ = call("web", whole_run, "-o", tmp_path / "page.html", "--runtime", package(tmp_path / "ort"))

    page = (tmp_path / "page.html").read_text()
    assert (code, out.strip()) == (0, str(tmp_path / "page.html"))
    assert "<title>segpipe: street</title>" in page
    assert json.loads(Parsed(page).scripts[0])["classes"] == list(testing.CONTRACT.classes)


def test_a_run_without_the_graph_a_failed_one_and_a_folder_are_refused(
    whole_run: Path, run: Path, tmp_path: Path
) -> None:
    failed = Path(shutil.copytree(whole_run, tmp_path / "failed"))
    verdicts = RunDirectory(failed).artifact_bytes(STAGE, FILE_NAME).replace(b'"passed"', b'"failed"')
    replace_output(RunDirectory(failed), STAGE, FILE_NAME, verdicts)

    for path, out, words in (
        (run, "page.html", "--end-to-end"),
        (failed, "page.html", "was judged: failed"),
        (whole_run, ".", "is a folder"),
        (whole_run, "page.html", "npm pack onnxruntime-web"),
    ):
        code, _, said = call("web", path, "-o", tmp_path / out)
        assert (code, words in said) == (1, True), said


def test_the_same_run_gives_the_same_page(whole_run: Path, tmp_path: Path) -> None:
    runtime = package(tmp_path / "ort")
    for name in ("a.html", "b.html"):
        assert call("web", whole_run, "-o", tmp_path / name, "--runtime", runtime)[0] == 0

    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
