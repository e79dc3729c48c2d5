"""The user's own code, named `package.module:factory` in the config: found when there is work, hashed for the key."""

import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import Any

from segpipe.errors import ConfigError
from segpipe.rundir.storage import sha256_of, sha256_of_bytes


def find_factory(name: str, setting: str) -> Any:
    """What `package.module:factory` names; `setting` says in errors where the name stands."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        hint = "write package.module:factory, and check PYTHONPATH"
        raise ConfigError(f"{setting} = '{name}': {error}", hint=hint) from error


def refuse_other_arguments(factory: Any, arguments: dict[str, Any], setting: str) -> None:
    """Looks at the signature alone: a TypeError from within the factory is its own and keeps its traceback."""
    signature = inspect.signature(factory)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{setting}: {error}", hint=f"it takes {signature}") from None


def source_hash(name: str, setting: str) -> str:
    """SHA-256 of every *.py of the top-level package that `package.module:factory` is in. Imports nothing of it."""
    module = name.partition(":")[0]
    files = _sources(module.partition(".")[0])
    if not files:
        raise ConfigError(f"{setting}: module '{module}' cannot be imported", hint="put it on PYTHONPATH")
    lines = [f"{name} {sha256_of(path)}" for name, path in sorted(files.items())]
    return sha256_of_bytes("\n".join(lines).encode())


def _sources(top: str) -> dict[str, Path]:
    """Every source file of a top-level package or module, by its name in it."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return {}
    if spec is None:
        return {}
    if spec.submodule_search_locations is None:
        file = Path(spec.origin or "")
        return {file.name: file} if file.is_file() else {}
    folders = map(Path, spec.submodule_search_locations)
    return {path.relative_to(folder).as_posix(): path for folder in folders for path in folder.rglob("*.py")}
