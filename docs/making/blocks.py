"""The code in pages: fenced blocks by their language, so that tests can run every one."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`(segpipe [^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """One fenced block, and where it stands."""

    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Every page that a person wrote, the README last."""
    return [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]


def blocks(page: Path, *languages: str) -> list[Block]:
    """Its blocks in one of these languages."""
    text = page.read_text(encoding="utf-8")
    found = (Block(page, text[: m.start()].count("\n") + 2, m[1], m[2]) for m in _FENCE.finditer(text))
    return [block for block in found if block.language in languages]


def commands(page: Path) -> Iterator[str]:
    """Every `segpipe ...` line: in shell blocks, in indented blocks, and between backticks."""
    text = page.read_text(encoding="utf-8")
    shell = "\n".join(block.code for block in blocks(page, "bash"))
    indented = "\n".join(line[4:] for line in _FENCE.sub("", text).splitlines() if line.startswith("    "))
    for line in f"{shell}\n{indented}".replace("\\\n", " ").splitlines():
        yield from (part.strip() for part in line.split("|") if part.strip().startswith("segpipe "))
    yield from _INLINE.findall(_FENCE.sub("", text).replace("\\|", "|"))
