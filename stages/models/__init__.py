"""Networks by name. Every network emits scores at its own stride, without upsampling them.

What a network promises: one tensor of scores in eval mode; attributes `stride` and `size_multiple`; in training mode a
network with deep supervision may return a tuple (scores, auxiliary scores, ...), each at its own stride, whose losses
the training stage weights with `train.auxiliary_weight`. With one output channel the score is a sigmoid's argument.
"""

import functools
import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segpipe.errors import BackendMissingError, ConfigError
from segpipe.rundir import RunDirectory
from segpipe.storage import sha256_of, sha256_of_bytes
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
    _refuse_other_options(config, factory, channels, outputs)
    network: nn.Module = factory(channels=channels, classes=outputs, **config.options)
    return network


def source_hash(config: ModelConfig) -> str | None:
    """SHA-256 of every *.py of a user's top-level package; None for networks of this package (stages have versions).

    Imports nothing of theirs.
    """
    if ":" not in config.name:
        return None
    module = config.name.partition(":")[0]
    files = _sources(module.partition(".")[0])
    if not files:
        raise ConfigError(f"[model] name: module '{module}' cannot be imported", hint="put it on PYTHONPATH")
    lines = [f"{name} {sha256_of(path)}" for name, path in sorted(files.items())]
    return sha256_of_bytes("\n".join(lines).encode())


def factory_inputs(rundir: RunDirectory, config: ModelConfig) -> dict[str, str]:
    """The user's factory as an input of every stage that runs its network. Imported runs have none."""
    source = None if "import" in rundir.manifest.stages else source_hash(config)
    return {} if source is None else {"factory": source}


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


def _refuse_other_options(config: ModelConfig, factory: Any, channels: int, outputs: int) -> None:
    """Looks at the signature alone: a TypeError from within the factory is its own and keeps its traceback."""
    signature = inspect.signature(factory)
    try:
        signature.bind(channels=channels, classes=outputs, **config.options)
    except TypeError as error:
        raise ConfigError(f"[model] {config.name}: {error}", hint=f"it takes {signature}") from None


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
