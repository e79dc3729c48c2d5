"""The user's own code, named `package.module:factory` in the config: found when there is work, hashed for the key.

Python's own path comes first; then the run's folder, then the working directory. What lies in those two is put on the
path only while it is imported and called, and a name that is installed as well is refused: nobody could tell which ran.
"""

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from segpipe.errors import ConfigError
from segpipe.rundir.storage import sha256_of, sha256_of_bytes

_beside_run: list[Path] = []
"""The run's folder, once there is one."""
_loaded: dict[str, Path] = {}
"""Modules that came from a run's folder or a working directory, and from which."""


def look_beside(run: Path) -> None:
    """From now on modules are also looked for in this run's folder."""
    _beside_run[:] = [run.resolve()]


def find_factory(name: str, setting: str) -> Any:
    """What `package.module:factory` names; `setting` says in errors where the name stands."""
    module, _, attribute = name.partition(":")
    try:
        with importable(name, setting):
            return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        hint = "write package.module:factory; the module lies in the run's folder, the working directory or PYTHONPATH"
        raise ConfigError(f"{setting} = '{name}': {error}", hint=hint) from error


def refuse_other_arguments(factory: Any, arguments: dict[str, Any], setting: str) -> None:
    """Looks at the signature alone: a TypeError from within the factory is its own and keeps its traceback."""
    signature = inspect.signature(factory)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{setting}: {error}", hint=f"it takes {signature}") from None


def source_hash(name: str, setting: str) -> str:
    """SHA-256 of every *.py of the top-level package that `package.module:factory` is in, and where that lies beside
    the run, of what it imports from there. Imports nothing of it."""
    module = name.partition(":")[0]
    top = module.partition(".")[0]
    folder = _folder_of(module, setting)
    files = _sources(_spec_of(top)) if folder is None else _beside(folder, module)
    if not files:
        hint = "put it into the run's folder, the working directory or on PYTHONPATH"
        raise ConfigError(f"{setting}: module '{module}' cannot be imported", hint=hint)
    lines = [f"{name} {sha256_of(path)}" for name, path in sorted(files.items())]
    return sha256_of_bytes("\n".join(lines).encode())


@contextmanager
def importable(name: str, setting: str) -> Iterator[None]:
    """In the block the module of this name, and what lies beside it, can be imported."""
    folder = _folder_of(name.partition(":")[0], setting) if ":" in name else None
    if folder is None:
        yield
        return
    _forget_others(folder)
    before, bytecode = set(sys.modules), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # a run's folder holds what a run leaves, and no caches
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = bytecode
        new = {key: getattr(sys.modules[key], "__file__", None) for key in set(sys.modules) - before}
        _loaded.update({key: folder for key, file in new.items() if file and Path(file).is_relative_to(folder)})


def _folder_of(module: str, setting: str) -> Path | None:
    """The folder beside the run, or the working directory, that holds the module; None where Python's path does."""
    folder = next((folder for folder in _folders() if _holds(folder, module)), None)
    if folder is None or folder in {Path(entry or ".").resolve() for entry in sys.path}:
        return None
    importlib.invalidate_caches()
    for top in sorted({name.partition("/")[0].removesuffix(".py") for name in _beside(folder, module)}):
        spec = _spec_of(top)
        if spec is not None and spec.origin and not Path(spec.origin).is_relative_to(folder):
            raise ConfigError(
                f"{setting}: '{top}' lies in {folder} and is installed too ({spec.origin})",
                hint="give your file another name",
            )
    return folder


def _folders() -> list[Path]:
    return [*_beside_run, Path.cwd()]


def _holds(folder: Path, module: str) -> bool:
    parts = module.split(".")
    path = folder.joinpath(*parts)
    return all(map(str.isidentifier, parts)) and _is_source(path)


def _is_source(path: Path) -> bool:
    """Whether a module of this path, without suffix, can be imported."""
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _spec_of(top: str) -> ModuleSpec | None:
    """Where Python finds the top-level module by itself, whatever was imported from beside a run."""
    try:
        return PathFinder.find_spec(top) if top in _loaded else importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None


def _sources(spec: ModuleSpec | None) -> dict[str, Path]:
    """Every source file of a top-level package or module, by its name in it."""
    if spec is None:
        return {}
    if spec.submodule_search_locations is None:
        file = Path(spec.origin or "")
        return {file.name: file} if file.is_file() else {}
    folders = map(Path, spec.submodule_search_locations)
    return {path.relative_to(folder).as_posix(): path for folder in folders for path in folder.rglob("*.py")}


def _beside(folder: Path, module: str) -> dict[str, Path]:
    """The source files of a module's package in a folder, and of those in it that they import, however far down."""
    found: dict[str, Path] = {}
    waiting, seen = [module.partition(".")[0]], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        own = _files_of(folder, name)
        found |= {path.relative_to(folder).as_posix(): path for path in own}
        waiting += [other for path in own for other in _imported(path)]
    return found


def _files_of(folder: Path, top: str) -> list[Path]:
    """Of a module, or of a package: a folder of data that only has its name holds no Python near its top."""
    if (folder / f"{top}.py").is_file():
        return [folder / f"{top}.py"]
    package = folder / top
    holds = any(next(package.glob(pattern), None) for pattern in ("*.py", "*/*.py"))
    return sorted(package.rglob("*.py")) if holds else []


def _imported(path: Path) -> set[str]:
    """Top-level names that a source file imports; none where it is no Python, which importing it will tell."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return set()
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.partition(".")[0] for name in names}


def _forget_others(folder: Path) -> None:
    """Modules of another run or working directory may have the same names."""
    for name in [name for name, place in _loaded.items() if place != folder]:
        sys.modules.pop(name, None)
        del _loaded[name]
