"""What `stages` adds to segpipe: objects that entry points name, so that nothing here needs to know their modules.

A checkout says them in its own pyproject.toml, which is right also where it was never installed, or an older one was.
"""

import logging
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

_DISTRIBUTION = "segpipe"
_SHOWN = 200  # characters of somebody else's error

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


def load(group: str, kind: type[_T]) -> Iterator[_T]:
    """Each object of the group, in the order of their names; what is not installed here is left out.

    What does not load, or is of another kind, is left out with a warning: the other commands work without it.
    """
    for name, value in sorted(_declared(group).items()):
        try:
            found = _loaded(value)
            if found is not None and not isinstance(found, kind):
                raise TypeError(f"{value} is of type {type(found).__name__}, wanted {kind.__name__}")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it is somebody else's module, and may do anything
            reason = f"{type(error).__name__}: {error}"
            _log.warning("the entry point %r of %s is left out: %.*r", name, group, _SHOWN, reason)
        else:
            if found is not None:
                yield found


def _loaded(value: str) -> Any:
    """What `module:attribute` names; None where the module is not installed."""
    module, _, attribute = value.partition(":")
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            return None  # a machine that only segments may do without the offline half
        raise
    return getattr(found, attribute)


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

    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project")
    except (OSError, ValueError, RecursionError):  # where it was installed, a file that lies beside it is anybody's
        return None
    return project if isinstance(project, dict) and project.get("name") == _DISTRIBUTION else None
