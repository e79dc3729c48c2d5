"""Networks by name. Every network emits scores at its own stride, without upsampling them."""

import hashlib
import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segpipe.errors import ConfigError
from stages.config import ModelConfig

if TYPE_CHECKING:
    from torch import nn

_BUILT_IN = {"skipnet": "stages.models.skipnet:SkipNet"}


def build_network(config: ModelConfig, channels: int, outputs: int) -> "nn.Module":
    """A network with random weights: `channels` in, `outputs` scores a pixel out."""
    factory = _resolve(_BUILT_IN.get(config.name, config.name))
    try:
        network: nn.Module = factory(channels=channels, classes=outputs, **config.options)
    except TypeError as error:
        raise ConfigError(f"[model] {config.name}: {error}", hint=f"it takes {inspect.signature(factory)}") from error
    return network


def source_hash(config: ModelConfig) -> str | None:
    """SHA-256 of the file a user's factory lives in; None for networks of this package (their stage has a version)."""
    if config.name in _BUILT_IN or ":" not in config.name:
        return None
    module = config.name.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        spec = None
    if spec is None or spec.origin is None:
        raise ConfigError(f"[model] name: module '{module}' cannot be imported", hint="put it on PYTHONPATH")
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def _resolve(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ConfigError(
            f"[model] there is no network '{name}'", hint=f"use {', '.join(_BUILT_IN)} or package.module:factory"
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"[model] {name}: {error}", hint="check the name, and PYTHONPATH") from error
