"""The documentation as a site: `python -m docs.making.site` (or `make docs`) writes build/docs/site.

Pages lie in docs/; those of settings, commands and messages are made from the code each time. Warnings are errors, and
so is anything that a page would load from elsewhere.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from docs.making.commands import commands_page
from docs.making.messages import errors_page
from docs.making.settings import contract_page, settings_page

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "docs"
IN_A_CLONE = " (after `make docs`)"
"""Stands beside links to generated pages, which lie in the site alone."""
GENERATED: dict[str, Callable[[], str]] = {
    "reference/segpipe-toml.md": settings_page,
    "reference/contract.md": contract_page,
    "reference/commands.md": commands_page,
    "reference/errors.md": errors_page,
}
_LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(?:https?:)?//[^\"]*\"|<link\b[^>]*>|@import[^;]*;")
_NO_PAGES = shutil.ignore_patterns("making", "__pycache__", "*.toml", "*.py", ".gitkeep")
_LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
_OUTSIDE = re.compile(r"(?:href=\"|src=\"|url\(|@import\s+[\"'])(?:https?:)?//")
_SHEET = re.compile(r"rel=\"(?:stylesheet|preload|preconnect|icon|manifest)\"|<script|<img|<iframe|<source|@import")


def main() -> int:
    """Gather the pages, build, look for what is loaded from outside."""
    gather(BUILD / "pages")
    shutil.copy(ROOT / "docs" / "zensical.toml", BUILD)
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict", "--clean"]
    plain = {**os.environ, "NO_COLOR": "1"}
    if (ended := subprocess.run(command, cwd=BUILD, env=plain, check=False)).returncode:
        return ended.returncode
    site = BUILD / "site"
    let_files_be_searched(site)
    found = sorted({f"{path.relative_to(site)}: {tag}" for path in site.rglob("*.html") for tag in loads(path)})
    print("\n".join([*(f"loaded from outside: {one}" for one in found), str(site / "index.html")]))
    return 1 if found else 0


def let_files_be_searched(site: Path) -> None:
    """The index as a script: a page that was opened as a file may not fetch it."""
    index = (site / "search.json").read_text(encoding="utf-8")
    (site / "search.js").write_text(f"var __index = {index}", encoding="utf-8")


def gather(pages: Path) -> None:
    """All pages and pictures in one folder, made anew."""
    shutil.rmtree(pages, ignore_errors=True)
    shutil.copytree(ROOT / "docs", pages, ignore=_NO_PAGES)
    for name, make in GENERATED.items():
        (pages / name).parent.mkdir(exist_ok=True)
        (pages / name).write_text(make(), encoding="utf-8")
    for page in pages.rglob("*.md"):
        page.write_text(page.read_text(encoding="utf-8").replace(IN_A_CLONE, ""), encoding="utf-8")


def loads(path: Path) -> Iterator[str]:
    """What a page of the site would fetch from elsewhere."""
    for tag in _LOADED.findall(path.read_text(encoding="utf-8")):
        if _OUTSIDE.search(tag) and _SHEET.search(tag):
            yield tag


def broken(pages: Path) -> Iterator[tuple[Path, str]]:
    """Links and pictures of pages that lead to no file here, or to no heading of one."""
    for page in sorted(pages.rglob("*.md")):
        for target in _LINK.findall(page.read_text(encoding="utf-8")):
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            if not file.is_file() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
                yield page, target


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


if __name__ == "__main__":
    sys.exit(main())
