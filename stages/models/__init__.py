"""Networks by name. Every network emits scores at its own stride, without upsampling them.

What a network for masks promises: one tensor of scores in eval mode; attributes `stride` and `size_multiple`; in
training mode a network with deep supervision may return a tuple (scores, auxiliary scores, ...), each at its own
stride, whose losses the training stage weights with `train.auxiliary_weight`. With one output channel the score is a
sigmoid's argument. What one for things promises stands at `stages.models.centremask.CentreMask`.
"""

import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from segpipe.contract.schema import AnyContract, InstanceContract
from segpipe.errors import BackendMissingError, ConfigError
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.storage import explained_reads, sha256_of
from stages.config import user_code
from stages.config.root import ModelConfig
from stages.models.registry import find_factory, refuse_other_task

if TYPE_CHECKING:
    from torch import nn

_FILES = {".safetensors", ".pth", ".pt"}
_PACKAGES = {"torchvision", "segmentation_models_pytorch", "timm"}


def build_for(config: ModelConfig, contract: AnyContract) -> "nn.Module":
    """A network with random weights for what a contract says, a draft of one even."""
    refuse_other_task(config.name, contract.task)
    if isinstance(contract, InstanceContract):
        of_task: dict[str, Any] = {"things": len(contract.things), "top": contract.top}
        if contract.masks == "none":
            of_task["masks"] = contract.masks
        return build_network(config, contract.channels, len(contract.classes), of_task)
    return build_network(config, contract.channels, contract.score_channels)


def build_network(
    config: ModelConfig, channels: int, outputs: int, of_task: Mapping[str, Any] = MappingProxyType({})
) -> "nn.Module":
    """A network with random weights: `channels` in, `outputs` scores a pixel out. See `load_pretrained` for others."""
    factory = _resolve(config.name)
    if decided := {"channels", "classes", *of_task} & config.options.keys():
        raise ConfigError(
            f"[model] options.{min(decided)} is not yours to set", hint="[input] channels, [task] and the data decide"
        )
    arguments = {"channels": channels, "classes": outputs, **of_task, **config.options}
    user_code.refuse_other_arguments(factory, arguments, f"[model] {config.name}")
    with user_code.importable(config.name, "[model] name"):
        network: nn.Module = factory(**arguments)
    return network


def source_hash(config: ModelConfig) -> str | None:
    """SHA-256 of the package that a user's network is in; None for networks of this package (stages have versions)."""
    return user_code.source_hash(config.name, "[model] name") if ":" in config.name else None


def factory_inputs(rundir: RunDirectory, config: ModelConfig) -> dict[str, str]:
    """The user's factory as an input of every stage that runs its network. Imported runs have none."""
    source = None if "import" in rundir.manifest.stages else source_hash(config)
    return {} if source is None else {"factory": source}


def weights_file(config: ModelConfig, base: Path) -> Path | None:
    """The file `[model] weights` names, relative to `base`; None for a published set or none at all."""
    if Path(config.weights).suffix not in _FILES:
        return None
    return _existing(base / config.weights, "[model] weights")


def trained_file(config: ModelConfig, base: Path) -> Path:
    """The file `[model] trained` names, relative to `base`."""
    return _existing(base / config.trained, "[model] trained")


def trained_hash(config: ModelConfig, base: Path) -> str:
    """SHA-256 of the same file: an input of adopting."""
    path = trained_file(config, base)
    with explained_reads(path):
        return sha256_of(path)


def weights_hash(config: ModelConfig, base: Path) -> str | None:
    """SHA-256 of the file `[model] weights` names: an input of training. Imports no torch."""
    path = weights_file(config, base)
    if path is None:
        return None
    with explained_reads(path):
        return sha256_of(path)


def _existing(path: Path, setting: str) -> Path:
    with explained_reads(path):
        found, state = path.is_file(), "is a folder" if path.is_dir() else "does not exist"
    if not found:
        raise ConfigError(f"{setting}: {path} {state}", hint="name a file, relative to the TOML file")
    return path


def _resolve(name: str) -> Any:
    if ":" in name:
        return user_code.find_factory(name, "[model] name")
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
