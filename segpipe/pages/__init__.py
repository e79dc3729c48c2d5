"""The look that all pages share, those of the pipeline too, and the frame of pages that need no template engine."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from urllib.parse import quote

Section = tuple[str, str, str]
"""Its id, its heading, and its content, which is HTML."""
Entry = tuple[str, str]
"""A name in the navigation, and where it leads; nowhere for the page that is shown."""

MADE = "<footer><p>Made by segpipe from the index."
"""What each such page ends with."""


def page(title: str, about: str, links: Sequence[Entry], sections: Sequence[Section]) -> str:
    """A file of its own. `title`, `about` and names are texts; sections are HTML."""
    shown = escape(title)
    parts = "".join(f'<li><a href="#{name}">{escape(heading)}</a></li>' for name, heading, _ in sections)
    body = "\n".join(
        f'<section id="{name}" aria-labelledby="h-{name}"><h2 id="h-{name}">{escape(heading)}</h2>\n{content}</section>'
        for name, heading, content in sections
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{shown}</title>
<link rel="icon" href="data:,">
<style>
{files("segpipe.pages").joinpath("page.css").read_text()}
</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<nav class="pages" aria-label="Pages"><strong>segpipe</strong><ul>{"".join(map(_entry, links))}</ul></nav>
<h1>{shown}</h1><p class="muted">{escape(about)}</p>
<nav class="parts" aria-label="Parts of this page"><ul>
{parts}
</ul></nav>
</header>
<main id="content">
{body}
</main>
{MADE} This file needs no other.</p></footer>
</body>
</html>
"""


def table(label: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """Texts in rows; the last so many columns are numbers."""
    kinds = ["" if place < len(columns) - numbers else ' class="number"' for place in range(len(columns))]
    head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(columns, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>\n"
        for row in rows
    )
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="{escape(label)}">{whole}</div>'


def _entry(entry: Entry) -> str:
    name, href = entry
    where = f'href="{quote(href)}"' if href else 'href="#content" aria-current="page"'
    return f"<li><a {where}>{escape(name)}</a></li>"
