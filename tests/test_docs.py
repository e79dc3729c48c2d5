"""The documentation is true: its code runs, its commands and settings exist, its quotes are the source's words."""

import ast
import inspect
import pkgutil
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import onnx
import pytest
import typer

import segpipe
from docs.making.blocks import ROOT, Block, blocks, commands, pages
from docs.making.messages import messages, sources, template
from docs.making.settings import contract_page, settings_page
from docs.making.site import GENERATED, IN_A_CLONE, broken, gather, let_files_be_searched, loads
from segpipe import testing
from segpipe.artifacts import ARTIFACTS, BACKENDS
from segpipe.cli import app
from segpipe.contract.schema import Contract, InstanceContract
from stages.config.file import parse_config, parse_toml
from stages.graphs.end_to_end import end_to_end
from stages.import_model import read_description
from tests.calling import call
from tests.things_run import make_things_run
from tests.using import make_video

PICTURES_KB = 450
STAND_INS = {"RUN": "runs/street", "OLD_RUN": "runs/demo", "BUNDLE": "street", "NAME": "skipnet", "DIR": "out"}
PYTHON = [(page, found) for page in pages() if (found := blocks(page, "python"))]
TOML = [block for page in pages() for block in blocks(page, "toml")]


def named(value: Any) -> str:
    """A page's or a block's place, as a test's name."""
    return str(value if isinstance(value, Block) else value.relative_to(ROOT)) if not isinstance(value, list) else ""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages speak of: runs, a bundle, photographs, a video."""
    folder = tmp_path_factory.mktemp("docs")
    run = testing.make_run(folder / "runs" / "street")
    shutil.copytree(run, folder / "runs" / "demo")
    for name in ("street", "street-service"):
        call("bundle", run, "-o", folder / name)
    graph = onnx.load_model_from_string(testing.make_onnx(testing.CONTRACT))
    onnx.save(end_to_end(graph, testing.CONTRACT, confidence=True), folder / "model.e2e.onnx")
    frame = cv2.cvtColor(testing.make_frame(48, 64)[0], cv2.COLOR_RGB2BGR)
    for path in ("photos/0001.jpg", "runs/demo/pictures/frames/shapes-test-0000.png"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / path), frame)
    make_video(folder / "clip.mp4", 2)
    make_things_run(folder / "runs" / "things")
    return folder


@pytest.mark.parametrize(("page", "found"), PYTHON, ids=named)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, found: list[Block], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    names: dict[str, Any] = {"__name__": "page"}

    for block in found:
        with needs_installed(block):
            exec(compile("\n" * (block.line - 1) + block.code, str(block.page), "exec"), names)


def needs_installed(block: Block) -> Any:
    """A web framework is the reader's choice and no dependency of ours: without it the block is compiled alone."""
    if "import FastAPI" not in block.code:
        return nullcontext()
    return pytest.raises(ModuleNotFoundError, match="fastapi") if not _installed("fastapi") else nullcontext()


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


@pytest.mark.parametrize("page", pages(), ids=named)
def test_a_command_of_a_page_is_one_with_its_options(page: Path) -> None:
    for line in commands(page):
        words = shlex.split(line.partition(" > ")[0].rstrip("\\").replace("…", "x"), comments=True)
        words = [STAND_INS.get(word, word) for word in words if word not in {"...", "COMMAND"}]
        if words[1:] and not (len(words) == 2 and words[1] in group_names()):
            parse(words[1:], f"{page.name}: {line}")


@pytest.mark.parametrize("line", ["segpipe fly runs/street", "segpipe run runs/street --fast", "segpipe predict"])
def test_a_command_that_is_none_is_found(line: str) -> None:
    with pytest.raises(Exception, match=r"no command fly|No such option|Missing parameter"):
        parse(shlex.split(line)[1:], line)


def group_names() -> set[str]:
    """Commands that take further words."""
    group: Any = typer.main.get_command(app)
    return set(group.commands)


def parse(words: list[str], place: str) -> None:
    """Read a command line as the program would, without doing it."""
    command: Any = typer.main.get_command(app)
    rest, name = words, "segpipe"
    while True:
        context = command.make_context(name, list(rest), resilient_parsing=True)
        if not hasattr(command, "commands"):
            with command.make_context(name, list(rest)):
                return
        left = [*context._protected_args, *context.args]
        if not left:
            return
        name, rest = left[0], left[1:]
        assert name in command.commands, f"{place}: there is no command {name}"
        command = command.commands[name]


@pytest.mark.parametrize("block", TOML, ids=named)
def test_settings_of_a_page_are_read(block: Block, tmp_path: Path) -> None:
    content = tomllib.loads(block.code)

    fields = {*Contract.model_fields, *InstanceContract.model_fields, "task", "palette", "data"}
    if set(content) <= fields and "classes" in content:
        (tmp_path / "contract.toml").write_text(block.code)
        assert read_description(tmp_path / "contract.toml")
    else:
        whole = parse_toml((ROOT / "stages/templates/folder.toml").read_text(), "folder.toml")
        assert parse_config({**whole, **content}, str(block))


def quotes() -> Iterator[str]:
    """What the page of troubleshooting quotes."""
    text = (ROOT / "docs/troubleshooting.md").read_text()
    yield from re.findall(r"^> (.+)$", text, re.MULTILINE)


def said() -> Iterator[str]:
    """Every text in the source that is no docstring."""
    for path in sources():
        tree = ast.parse(path.read_text())
        alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in alone:
                yield template(node)


def test_a_quoted_message_is_in_the_source() -> None:
    texts = [*said()]

    assert [quote for quote in quotes() if not any(quote in text for text in texts)] == []


def test_the_page_of_errors_has_messages_with_their_advice() -> None:
    found = {message.text: message.hint for message in messages()}

    assert found["this segmenter is closed"] == "open the run again with Segmenter.open"


def test_the_page_of_errors_has_no_message_without_words() -> None:
    assert [message.text for message in messages() if not any(map(str.isalpha, message.text))] == []


def test_no_two_pages_write_the_same_bundle() -> None:
    written = [
        (page.name, found[1])
        for page in pages()
        for line in commands(page)
        if (found := re.search(r"segpipe bundle .*-o (\S+)", line)) and found[1] not in STAND_INS
    ]
    folders = {folder: {name for name, other in written if other == folder} for _, folder in written}

    assert written
    assert {folder: names for folder, names in folders.items() if len(names) > 1} == {}


def test_every_way_to_run_on_a_cpu_is_on_the_page_of_openvino() -> None:
    text = (ROOT / "docs/how-to/openvino.md").read_text()

    assert [row.name for row in ARTIFACTS.values() if not row.needs_gpu and f"`{row.name}`" not in text] == []


def test_every_setting_is_described() -> None:
    bare = [line for line in (settings_page() + contract_page()).splitlines() if re.match(r"\| `.*\|  \|$", line)]

    assert bare == []


def test_every_public_name_is_on_the_page_of_python_and_is_there() -> None:
    shown = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/reference/python.md").read_text(), re.MULTILINE)

    assert {f"{home}.{name}" for name, home in segpipe._HOMES.items()} <= {*shown, "segpipe.errors.SegpipeError"}
    assert [name for name in shown if pkgutil.resolve_name(name) is None] == []


def test_the_readme_names_what_is_public() -> None:
    text = (ROOT / "README.md").read_text()

    assert [name for name in segpipe._HOMES if f"`segpipe.{name}`" not in text] == []


def test_the_table_of_extras_names_every_backends_and_none_that_is_missing() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    shown = re.findall(r"^\| `\[(\w+)\]` \|", (ROOT / "docs/index.md").read_text(), re.MULTILINE)

    assert {spec.extra for spec in BACKENDS.values()} | {"pipeline"} <= {*shown} <= {*extras}


@pytest.mark.parametrize("name", segpipe._HOMES)
def test_every_public_method_is_described(name: str) -> None:
    kind = getattr(segpipe, name)
    own = {member: value for member, value in vars(kind).items() if not member.startswith("_")}
    methods = {member: inspect.unwrap(getattr(value, "__func__", value)) for member, value in own.items()}

    assert kind.__doc__
    assert [member for member, value in methods.items() if inspect.isfunction(value) and not value.__doc__] == []


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_page_has_no_empty_section(name: str) -> None:
    text = GENERATED[name]()

    assert len(text) > 1000
    assert not re.search(r"^(#+) .*\n+\1 ", text, re.MULTILINE)


def test_pages_lead_only_to_pages_that_are_there(tmp_path: Path) -> None:
    gather(tmp_path / "pages")

    assert [*broken(tmp_path / "pages")] == []


def test_the_readme_leads_only_to_files_that_are_there() -> None:
    text = (ROOT / "README.md").read_text()
    found = re.findall(r"\]\((?!https?:)([^)\s#]+)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)

    assert len(found) > 20
    assert [name for name in found if not (ROOT / name).is_file()] == []


FRAMES = {"things"}
"""Pictures that are frames: the same on any paper."""


def test_every_picture_has_a_twin_for_the_dark_scheme() -> None:
    for page in pages():
        light = {*re.findall(r"pictures/([\w-]+)\.png", page.read_text())} - FRAMES
        assert {name for name in light if not name.endswith("-dark")} == {
            name.removesuffix("-dark") for name in light if name.endswith("-dark")
        }, page.name


def test_a_link_to_a_page_that_is_not_in_the_clone_says_so() -> None:
    names = "|".join(map(re.escape, GENERATED))
    unsaid = re.compile(rf"\]\((?:\.\./)?(?:{names})\)(?!{re.escape(IN_A_CLONE)})")

    assert unsaid.search("[a](../reference/errors.md).")
    assert [page.name for page in pages() if unsaid.search(page.read_text())] == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# One\n[a](gone.md) [b](page.md#one) ![c](gone.png) [d](page.md#two)\n")

    assert [link for _, link in broken(tmp_path)] == ["gone.md", "gone.png", "page.md#two"]


def test_what_a_page_loads_from_outside_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        '<a href="https://there.org/">a link loads nothing</a><link href="here.css" rel="stylesheet">'
        '<script src="https://there.org/x.js"></script><link href="//there.org/x.css" rel="stylesheet">'
    )

    assert len([*loads(page)]) == 2


def test_every_page_is_in_the_navigation() -> None:
    shown = re.findall(r'"([\w/-]+\.md)"', (ROOT / "docs/zensical.toml").read_text())
    written = [path.relative_to(ROOT / "docs").as_posix() for path in pages()[:-1]]

    assert sorted(shown) == sorted([*written, *GENERATED])


def test_pictures_are_small() -> None:
    sizes = [path.stat().st_size for path in (ROOT / "docs/pictures").iterdir()]

    assert sum(sizes) < PICTURES_KB * 1000


def test_a_page_that_is_opened_as_a_file_finds_its_index(tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text('{"items": ["ü"]}', encoding="utf-8")

    let_files_be_searched(tmp_path)

    assert (tmp_path / "search.js").read_text(encoding="utf-8") == 'var __index = {"items": ["ü"]}'
    scripts = tomllib.loads((ROOT / "docs/zensical.toml").read_text())["project"]["extra_javascript"]
    assert [name for name in scripts if not (ROOT / "docs" / name).is_file()] == []
