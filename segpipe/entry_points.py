"""What `stages` adds to segpipe: objects that entry points name, so that nothing here needs to know their modules.

A checkout says them in its own pyproject.toml, which is right also where it was never installed, or an older one was.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

_DISTRIBUTION = "segpipe"


def load(group: str) -> Iterator[Any]:
    """Each object of the group, in the order of their names; what is not installed here is left out."""
    for _, value in sorted(_declared(group).items()):
        module, _, attribute = value.partition(":")
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            if error.name and f"{module}.".startswith(f"{error.name}."):
                continue  # a machine that only segments may do without the offline half
            raise
        yield getattr(found, attribute)


def _declared(group: str) -> Mapping[str, str]:
    project = _checkout()
    if project is not None:
        return project.get("entry-points", {}).get(group, {})
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = distribution(_DISTRIBUTION).entry_points
    except PackageNotFoundError:  # copied, not installed
        return {}
    return {entry.name: entry.value for entry in found if entry.group == group}


def _checkout() -> dict[str, Any] | None:
    """The [project] table beside this package, where it lies in its source tree."""
    file = Path(__file__).parents[1] / "pyproject.toml"
    if not file.is_file():
        return None
    import tomllib

    project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    return project if project.get("name") == _DISTRIBUTION else None
