"""Starts a run directory from a commented template."""

from importlib.resources import files
from pathlib import Path

from segpipe.errors import ConfigError
from segpipe.rundir.storage import explained_refusals, write_atomically
from stages.config.file import FILE_NAME


def write_starter(directory: Path, template: str) -> Path:
    """Write DIRECTORY/segpipe.toml; an existing one is never overwritten."""
    path = directory / FILE_NAME
    if path.exists() or path.is_symlink():  # also one that dangles: it would be replaced
        raise ConfigError(f"{path} exists already", hint="edit it, or choose another directory")
    text = files("stages").joinpath("templates", f"{template}.toml").read_bytes()
    with explained_refusals(str(directory)):
        directory.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
    return path
