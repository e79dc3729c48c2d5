"""Puts a trained network's own weights into it: all of them, or none and the reasons in one message."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from torch import Tensor, nn

from segpipe.errors import InputError
from stages.config.root import ModelConfig
from stages.models import checkpoint, trained_file
from stages.models.pruned import reshaped_to
from stages.models.weights_files import WeightsFile, read_weights, refuse_no_weights

SETTING = "[model] trained"
_WRAPPERS = frozenset({"module", "_orig_mod", "model", "network", "net"})
"""What training code puts around a network; what else lies in the wrapper is none of the network's."""
_COUNTER = "num_batches_tracked"
_LISTED = 3
_DEEPEST = 3

_Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Adopted:
    """Where a network's weights were found."""

    file: str
    tensors: int
    inside: str
    prefix: str
    """Taken off the file's names."""
    left: tuple[str, ...]
    """Tensors of what the file has around the network: of a loss, or the mean and std of a wrapper."""

    def __str__(self) -> str:
        places = [f"in '{self.inside}'"] if self.inside else []
        places += [f"without the prefix '{self.prefix}'"] if self.prefix else []
        left = f"; left out, as no part of the network: {_listed(self.left)}" if self.left else ""
        return f"{self.tensors} tensors from {self.file} {', '.join(places)}".rstrip() + left


@dataclass(frozen=True)
class _Fit:
    """The names of a file beside those of a network, under one choice of prefixes."""

    taken: dict[str, str]
    """Name in the network -> name in the file."""
    unknown: tuple[str, ...]
    outside: tuple[str, ...]
    """Names in the file without the prefix."""
    prefix: str


def load_trained(network: nn.Module, config: ModelConfig, base: Path) -> Adopted:
    """Fill the network in place with the file that `[model] trained` names."""
    path = trained_file(config, base)
    found = read_weights(path, SETTING)
    if checkpoint.is_pruned(path):
        reshaped_to(network, found.tensors)
    if (modern := getattr(network, "modern", None)) is not None:
        found = replace(found, tensors={modern(name): tensor for name, tensor in found.tensors.items()})
    own = network.state_dict()
    fit = _placed(_shapes(found.tensors), _shapes(own), path.name)
    for name, original in fit.taken.items():
        refuse_no_weights(found.tensors[original], own[name], f"{SETTING}: '{original}' of {path.name}")
    network.load_state_dict({name: found.tensors[key] for name, key in fit.taken.items()}, strict=False)
    return _report(path.name, found, fit)


def _placed(file: _Shapes, network: _Shapes, source: str) -> _Fit:
    """Every name in its place, counters of batches apart; refused where one is missing, unknown or of another shape."""
    fit = max(
        (_fitted(file, network, removed, added) for removed, added in product(_prefixes(file), _shared(network))),
        key=lambda one: sum(file[key] == network[name] for name, key in one.taken.items()),
    )
    missing = [name for name in network if name not in fit.taken and not name.endswith(_COUNTER)]
    others = [name for name, key in fit.taken.items() if file[key] != network[name]]
    if len(others) == len(fit.taken) and (missing or fit.unknown):
        held, wanted = _listed(_shown(file, file)), _listed(_shown(network, network))
        raise _refusal(f"no tensor of {source} fits this network: it holds {held}; the network has {wanted}")
    if not (missing or fit.unknown or others):
        return fit
    differing = [f"{name} {list(file[fit.taken[name]])}, wanted {list(network[name])}" for name in others]
    parts = {
        "missing": _shown(missing, network), "unknown": _shown(fit.unknown, file), "of another shape": differing
    }  # fmt: skip
    told = "; ".join(f"{len(names)} {what} ({_listed(names)})" for what, names in parts.items() if names)
    raise _refusal(f"{source} holds another network's weights: {told}")


def _refusal(problem: str) -> InputError:
    hint = "[model] name and options, [data] classes and [input] channels say what it was trained as: make them so"
    return InputError(f"{SETTING}: {problem}", hint=hint)


def _fitted(file: _Shapes, network: _Shapes, removed: str, added: str) -> _Fit:
    renamed = {added + key.removeprefix(removed): key for key in file if key.startswith(removed)}
    taken = {name: key for name, key in renamed.items() if name in network}
    unknown = [key for name, key in renamed.items() if name not in network and not name.endswith(_COUNTER)]
    outside = [key for key in file if not key.startswith(removed)]
    if not set(removed.split(".")) <= {*_WRAPPERS, ""}:
        unknown, outside = [*unknown, *outside], []
    return _Fit(taken, tuple(unknown), tuple(outside), removed)


def _prefixes(names: Iterable[str]) -> list[str]:
    """What may stand before a network's own names, the shortest first."""
    found = {"".join(f"{part}." for part in name.split(".")[:depth]) for name in names for depth in range(_DEEPEST + 1)}
    return sorted(found, key=len)


def _shared(names: _Shapes) -> list[str]:
    """Those that stand before all of them: a wrapper around the network that the file is of."""
    return [prefix for prefix in _prefixes(list(names)[:1]) if all(name.startswith(prefix) for name in names)]


def _report(source: str, found: WeightsFile, fit: _Fit) -> Adopted:
    weights = [key for key in fit.taken.values() if not key.endswith(_COUNTER)]
    return Adopted(source, len(weights), found.inside, fit.prefix, fit.outside)


def _shown(names: Iterable[str], shapes: _Shapes) -> list[str]:
    return [f"{name} {list(shapes[name])}" for name in names]


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:_LISTED]) + (f" and {len(every) - _LISTED} more" if len(every) > _LISTED else "")
