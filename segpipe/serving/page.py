"""The page at /docs: the OpenAPI description for people. It has no script, and loads nothing from anywhere."""

from collections.abc import Iterator
from html import escape
from typing import Any

HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-family: ui-monospace, monospace; font-size: 1.1rem; margin-top: 2.5rem; }
pre { white-space: pre-wrap; }
th, td { text-align: left; vertical-align: top; padding: 0.15rem 1rem 0.15rem 0; font-weight: normal; }
"""


def documentation(openapi: dict[str, Any]) -> str:
    """Every path with what it takes and answers."""
    paths = "\n".join(
        _path(method, path, route) for path, routes in openapi["paths"].items() for method, route in routes.items()
    )
    title = escape(openapi["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}: what it answers</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><main><h1>{title}</h1>'
        f'<p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>{paths}</main></html>'
    )


def _path(method: str, path: str, route: dict[str, Any]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(what)}</td></tr>" for name, what in _rows(route))
    words = f"<pre>{escape(route['description'])}</pre>" if route.get("description") else ""
    head = f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(route.get('summary', ''))}</p>"
    return f"<section>{head}{words}<table>{rows}</table></section>"


def _rows(route: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if body := route.get("requestBody"):
        yield "takes", ", ".join(body["content"])
    for status, answer in route["responses"].items():
        yield status, answer.get("description", "")
