"""Which packages are installed, in which version, asked without importing them; and those that people may add."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from segpipe.errors import BackendMissingError


def versions(*packages: str) -> dict[str, str]:
    """Installed version of each package; those that are absent are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def supervision() -> Any:
    """The package of that name, which nothing of ours brings."""
    try:
        return import_module("supervision")
    except ImportError as error:
        raise BackendMissingError(f"supervision cannot be imported: {error}", hint="pip install supervision") from error


def rasters() -> Any:
    """What predicts TIFFs by windows."""
    try:
        return import_module("segpipe.predicting.raster")
    except ModuleNotFoundError as error:
        raise BackendMissingError(f"--geotiff needs {error.name}", hint="pip install 'segpipe[geo]'") from error
