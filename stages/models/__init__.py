"""Networks by name. Every network emits scores at its own stride, without upsampling them.

What a network promises: one tensor of scores in eval mode; attributes `stride` and `size_multiple`; in training mode a
network with deep supervision may return a tuple (scores, auxiliary scores, ...), each at its own stride, whose losses
the training stage weights with `train.auxiliary_weight`. With one output channel the score is a sigmoid's argument.
"""

import functools
import hashlib
import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segpipe.errors import BackendMissingError, ConfigError
from segpipe.storage import sha256_of
from stages.config import ModelConfig
from stages.models.registry import find_factory

if TYPE_CHECKING:
    from torch import nn

_FILES = {".safetensors", ".pth", ".pt"}
_PACKAGES = {"torchvision", "segmentation_models_pytorch", "timm"}


def build_network(config: ModelConfig, channels: int, outputs: int) -> "nn.Module":
    """A network with random weights: `channels` in, `outputs` scores a pixel out. See `load_pretrained` for others."""
    factory = _resolve(config.name)
    if decided := {"channels", "classes"} & config.options.keys():
        raise ConfigError(
            f"[model] options.{min(decided)} is not yours to set", hint="[input] channels and the data decide"
        )
    try:
        network: nn.Module = factory(channels=channels, classes=outputs, **config.options)
    except TypeError as error:
        raise ConfigError(f"[model] {config.name}: {error}", hint=f"it takes {inspect.signature(factory)}") from error
    return network


def source_hash(config: ModelConfig) -> str | None:
    """SHA-256 of the sources of a user's factory: every file of its package, or its single module; None for ours."""
    if ":" not in config.name:
        return None
    module = config.name.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)
        spec = importlib.util.find_spec(module.partition(".")[0])
    except ImportError:
        found = spec = None
    if found is None or found.origin is None or spec is None:
        raise ConfigError(f"[model] name: module '{module}' cannot be imported", hint="put it on PYTHONPATH")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = sorted(path for folder in folders for path in folder.rglob("*.py")) or [Path(found.origin)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def weights_file(config: ModelConfig, base: Path) -> Path | None:
    """The file `[model] weights` names, relative to `base`; None for a published set or none at all."""
    if Path(config.weights).suffix not in _FILES:
        return None
    path = base / config.weights
    if not path.is_file():
        raise ConfigError(f"[model] weights: {path} does not exist", hint="paths are relative to the TOML file")
    return path


def weights_hash(config: ModelConfig, base: Path) -> str | None:
    """SHA-256 of the file `[model] weights` names: an input of training. Imports no torch."""
    path = weights_file(config, base)
    return sha256_of(path) if path else None


def _resolve(name: str) -> Any:
    factory = find_factory(name)
    module, _, attribute = factory.target.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name in _PACKAGES:
            raise BackendMissingError(
                f"[model] {name} needs {error.name}", hint="pip install 'segpipe[pipeline]'"
            ) from error
        raise ConfigError(f"[model] {name}: {error}", hint="check the name, and PYTHONPATH") from error
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"[model] {name}: {error}", hint="check the name, and PYTHONPATH") from error
    return functools.partial(found, *factory.arguments) if factory.arguments else found
