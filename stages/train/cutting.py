"""Structured pruning: whole channels are cut out of a trained network until it has the arithmetic that is wanted.

torch-pruning tells which layers belong together and how much their channels weigh. What goes is decided here: its own
pruner passes over layers that would lose everything, so that a larger ratio can cut less.
"""

import copy
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segpipe.contract.schema import FrameContract
from segpipe.errors import BackendMissingError, ConfigError, SegpipeError
from stages.config.compress import CutTooFarError
from stages.models.pruned import is_reshapeable

_HEAD, _FIXED = "head", "not prunable"
_MOST = 0.8
"""Of a layer's channels: one that is cut to a few starves all that comes after it."""
_ROUND_TO = 4
"""Channels left are a multiple: odd numbers make convolutions slower, not faster."""
_HALVINGS = 16
"""Of the share of channels that is searched: no network has so many that more would tell."""
_TRIALS = 4
"""Cuts, where what was left is more than was foreseen."""


Kept = dict[str, tuple[str, ...]]
"""Names of the layers that keep all their channels, by the reason."""


def smallest(network: nn.Module, contract: FrameContract, macs: float) -> nn.Module:
    """The network cut as far as it can be; refused where that leaves more than this share of the MACs."""
    frame = example(contract)
    found = pruned(network, frame, 1.0)
    share = macs_of(found, frame) / macs_of(network, frame)
    if share > macs:
        raise CutTooFarError(
            f"[compress.prune] macs = {macs:g}: no more of this network can be cut away than leaves {share:.2f}",
            hint=f"set macs to {min(1.0, share + 0.05):.2f} or more, or train a smaller network",
        )
    return found


def cut_to(network: nn.Module, contract: FrameContract, macs: float) -> nn.Module:
    """The largest copy with at most this share of the MACs, its other channels cut out."""
    if macs >= 1:
        return copy.deepcopy(network)
    frame = example(contract)
    wanted = aim = macs * macs_of(network, frame)
    for _ in range(_TRIALS):
        with _explained():
            plan = _Plan(network, frame)
            ratio = plan.ratio_for(aim)
            found = plan.carried_out(ratio)
            count = macs_of(found, frame)
        if count <= wanted:
            return found
        if ratio >= 1:
            break
        aim *= 0.98 * wanted / count  # arithmetic that belongs to no layer does not shrink as foreseen
    return smallest(network, contract, macs)


def pruned(network: nn.Module, frame: Tensor, ratio: float) -> nn.Module:
    """A copy without the channels whose weights, over all layers, are smallest: about this share of all."""
    with _explained():
        found = _Plan(network, frame).carried_out(ratio)
        macs_of(found, frame)
    return found


class _Plan:
    """What could be cut of a copy of the network, and what that would leave, before anything is cut."""

    def __init__(self, network: nn.Module, frame: Tensor) -> None:
        tp = _library()
        self._network = copy.deepcopy(network).train(False).requires_grad_(True)
        self._macs = _macs_by_layer(self._network, frame)
        named, kept = dict(self._network.named_modules()), what_stays(network, frame)
        heads, fixed = ([named[name] for name in kept.get(reason, ())] for reason in (_HEAD, _FIXED))
        self._graph = tp.DependencyGraph().build_dependency(self._network, frame)
        self._groups = [
            group for group in self._graph.get_all_groups(ignored_layers=[*heads, *fixed])
            if not any(isinstance(dep.target.module, nn.Parameter) or dep.target.module in fixed for dep, _ in group)
            and any(dep.target.module in self._macs for dep, _ in group)  # not on the way to an auxiliary output alone
        ]  # fmt: skip
        if not self._groups:
            raise refusal("no layer of it can lose a channel")
        importance = tp.importance.GroupMagnitudeImportance(p=2)
        self._weights = [importance(group).detach() for group in self._groups]
        self._sorted = torch.cat(self._weights).sort().values

    def ratio_for(self, macs: float) -> float:
        """The smallest share of channels that leaves so many MACs, as far as can be foreseen."""
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if self._foreseen(middle) <= macs else (middle, high)
        return high

    def carried_out(self, ratio: float) -> nn.Module:
        """The network, cut. Once."""
        for group, weight, left in zip(self._groups, self._weights, self._left(ratio), strict=True):
            if cut := weight.argsort(stable=True)[: len(weight) - left].tolist():
                root = group[0].dep
                self._graph.get_pruning_group(root.target.module, root.handler, cut).prune()
        self._network.zero_grad(set_to_none=True)
        return self._network

    def _left(self, ratio: float) -> list[int]:
        """Channels of each group."""
        threshold = self._sorted[int(ratio * (len(self._sorted) - 1))]
        return [_left(weight, threshold) for weight in self._weights]

    def _foreseen(self, ratio: float) -> float:
        """A layer's multiplications go with its outputs and with its inputs; a depthwise one's with its channels."""
        lost: dict[tuple[nn.Module, bool], float] = defaultdict(float)
        for group, left in zip(self._groups, self._left(ratio), strict=True):
            share = 1 - left / len(group[0].idxs)
            for dep, channels in group:
                lost[dep.target.module, self._graph.is_out_channel_pruning_fn(dep.handler)] += share * len(channels)
        total = 0.0
        for module, macs in self._macs.items():
            outputs, inputs = _channels(module)
            macs_left = macs * (1 - lost[module, True] / outputs)
            total += macs_left * (1 if getattr(module, "groups", 1) > 1 else 1 - lost[module, False] / inputs)
        return total


@contextmanager
def _explained() -> Iterator[None]:
    """Whatever the library or somebody else's network raises becomes a known error; its remarks are dropped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except SegpipeError:
            raise
        except Exception as error:
            raise refusal(f"{type(error).__name__}: {(str(error).splitlines() or ['no reason given'])[0]}") from error


def _macs_by_layer(network: nn.Module, frame: Tensor) -> dict[nn.Module, int]:
    """Of convolutions and linear layers, for one frame."""
    found: dict[nn.Module, int] = defaultdict(int)

    def count(module: Any, given: Any, answer: Tensor) -> None:
        places = given[0] if isinstance(module, nn.ConvTranspose2d) else answer
        outputs, inputs = _channels(module)
        size = module.weight.numel()
        found[module] += places.numel() // (inputs if places is given[0] else outputs) * size

    kinds = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    hooks = [module.register_forward_hook(count) for module in network.modules() if isinstance(module, kinds)]
    with torch.no_grad():
        network(frame)
    for hook in hooks:
        hook.remove()
    return dict(found)


def _channels(module: Any) -> tuple[int, int]:
    """Of its outputs and of its inputs."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    return module.out_channels, module.in_channels


def _left(weight: Tensor, threshold: Tensor) -> int:
    """Channels that a group keeps: those above the threshold, no fewer than it may, rounded up."""
    channels = len(weight)
    least = max(int((weight > threshold).sum()), math.ceil(channels * (1 - _MOST)), 1)
    return min(channels, -(-least // _ROUND_TO) * _ROUND_TO)


def what_stays(network: nn.Module, frame: Tensor) -> Kept:
    """Layers that keep their channels: the heads, whose channels are the classes, and what no shape can tell."""
    weighted = [(name, module) for name, module in network.named_modules() if [*module.parameters(recurse=False)]]
    fixed = tuple(name for name, module in weighted if not is_reshapeable(module))
    found = {_HEAD: tuple(sorted(heads(network, frame))), _FIXED: fixed}
    return {reason: names for reason, names in found.items() if names}


def heads(network: nn.Module, frame: Tensor) -> set[str]:
    """The last layers on the way to each output, auxiliary ones included: found backwards through autograd's graph."""
    trial = copy.deepcopy(network).requires_grad_(True)
    names = {id(parameter): name.rpartition(".")[0] for name, parameter in trial.named_parameters()}
    found: set[str] = set()
    for training in (False, True):
        answer = trial.train(training)(torch.cat([frame, frame]))  # one frame is too few for some batch norms
        outputs = answer if isinstance(answer, tuple) else (answer,)
        found |= {names[id(weight)] for output in outputs for weight in _last_weights(output) if id(weight) in names}
    return found


def _last_weights(output: Tensor) -> Iterator[Tensor]:
    """Weights of convolutions and linear layers that nothing of that kind comes after."""
    ahead: list[Any] = [output.grad_fn]
    seen: set[Any] = set()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        before = [function for function, _ in node.next_functions]
        weights = [w for w in (getattr(function, "variable", None) for function in before) if w is not None]
        matrices = [weight for weight in weights if weight.ndim > 1]
        yield from matrices
        if not matrices:
            ahead += before


def macs_of(network: nn.Module, frame: Tensor) -> int:
    """Multiplications of one frame."""
    modes = [(module, module.training) for module in network.modules()]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(frame)
    for module, mode in modes:
        module.training = mode
    return int(counter.get_total_flops()) // 2


def parameters_of(network: nn.Module) -> int:
    """Numbers that training learns."""
    return sum(parameter.numel() for parameter in network.parameters())


def example(contract: FrameContract) -> Tensor:
    """A frame of zeros at the network's size; with an open one, at any that it should take."""
    size = contract.network_size or (8 * contract.size_multiple, 8 * contract.size_multiple)
    return torch.zeros(1, contract.channels, *size)


def _library() -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise BackendMissingError(
            "[compress.prune] needs torch-pruning", hint="pip install 'segpipe[compress]'"
        ) from error
    return torch_pruning


def refusal(reason: str) -> ConfigError:
    """The error for a network that pruning does not work on."""
    return ConfigError(
        f"[compress.prune] this network cannot be pruned: {reason}",
        hint="leave [compress.prune] out; `segpipe models` lists smaller networks",
    )
