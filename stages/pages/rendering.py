"""Templates to self-contained pages: the words for figures, and the links between the pages of a run."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from stages.measuring.rounds import in_words
from stages.results.gate import figure, percent

_NONE = "–"  # noqa: RUF001 - the sign for no figure


@dataclass(frozen=True)
class Link:
    """An entry of the navigation; the page that is shown leads nowhere."""

    name: str
    href: str = ""
    note: str = ""
    """What a reader has to know before going there."""


def link(name: str, to: Path, page: Path) -> Link:
    """From one file to another, both of which may move together."""
    return Link(name, quote(os.path.relpath(to.resolve(), page.resolve().parent)))


def render(template: str, links: tuple[Link, ...] = (), *, autoescape: bool = True, **values: Any) -> str:
    """The template with these values; what is not given is an error, not an empty place."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("stages", "templates"), PackageLoader("segpipe", "pages")]),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "number": _number, "share": _share, "in_words": in_words, "figure": figure, "percent": percent,
    }  # fmt: skip
    environment.filters.update(filters)
    return environment.get_template(template).render(links=links, **values)


def _number(value: float | None, form: str = ".4f") -> str:
    if value is None:
        return _NONE
    text = format(value, form)
    return text if any(digit in text for digit in "123456789") else text.removeprefix("-")  # no -0.0000


def _share(value: float | None, form: str = ".3%") -> str:
    return _number(value, form)
