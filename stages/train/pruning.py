"""Pruning in training: an unpruned network is cut, then it and an unpruned control are trained on for equal steps.

Three trainings, each with resume points of its own, so that a kill costs an epoch and no more.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segpipe.artifacts import UNPRUNED
from segpipe.metrics import scores
from segpipe.rundir.storage import write_atomically
from stages.config.root import Config
from stages.data import labels_of
from stages.models import build_network, checkpoint
from stages.models.checkpoint import Trained
from stages.train import cutting
from stages.train.contract import contract_of, score_channels
from stages.train.fit import Learned, Outcome, best_of, learn, outcome_of, tested
from stages.train.further import settings_for
from stages.train.processes import rank
from stages.train.trainer import Folders

_CUT = "cut.safetensors"
_RATE = 0.3
"""Of the learning rate: enough to heal a network, too little to train it anew."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pruned:
    """What every process has in the end."""

    learned: Learned
    control: Learned
    unpruned: bytes
    """The checkpoint that both began with."""


def fit_pruned(config: Config, base: Path, folders: Folders, unpruned: bytes | None) -> Outcome:
    """The pruned network and its files, the unpruned one among them; the control is measured and let go."""
    done = learn_pruned(config, base, folders, unpruned)
    outcome = outcome_of(done.learned, config, base)
    control = tested(done.control, config, base)
    miou = scores(control.matrix, done.control.learner.contract.unscored_numbers).mean_iou
    figures = {**outcome.figures, "pruned": figures_of(done, config, miou)}
    return Outcome(outcome.trained, figures, {**outcome.files, UNPRUNED: done.unpruned})


def learn_pruned(config: Config, base: Path, folders: Folders, unpruned: bytes | None) -> Pruned:
    """Train, unless the unpruned network is given, then cut it and train on. Every process takes part."""
    assert config.compress.prune is not None
    _refuse_uncuttable(config)
    begun = unpruned or best_of(learn(config, base, folders), config)
    further = settings_for(config, config.compress.prune.epochs, _RATE)
    _log.info(
        "prune: %d more epochs, twice: for the network at %g of its MACs, and for an unpruned control beside it",
        further.train.epochs,
        config.compress.prune.macs,
    )
    control = learn(further, base, folders.of("control"), checkpoint.from_bytes(begun))
    cut = _cut(begun, config, folders.resume / _CUT)
    teacher = checkpoint.from_bytes(begun) if config.compress.teaches_itself else None
    return Pruned(learn(further, base, folders.of("pruned"), cut, teacher), control, begun)


def figures_of(done: Pruned, config: Config, control_miou: float) -> dict[str, Any]:
    """What pruning cost and brought; `control_miou` is of the split that the network was measured on."""
    assert config.compress.prune is not None
    before, after = done.control.learner.network.cpu(), done.learned.learner.network.cpu()
    frame = cutting.example(done.control.learner.contract)
    return {
        "macs_wanted": config.compress.prune.macs,
        "macs_before": cutting.macs_of(before, frame),
        "macs_after": cutting.macs_of(after, frame),
        "parameters_before": cutting.parameters_of(before),
        "parameters_after": cutting.parameters_of(after),
        "control_val_miou": done.control.points.best["val_miou"],
        "control_test_miou": round(control_miou, 6),
        **({"taught": True} if config.compress.teaches_itself else {}),
        "kept": {reason: list(names) for reason, names in cutting.what_stays(before, frame).items()},
    }


def _refuse_uncuttable(config: Config) -> None:
    """Before anything is trained: what cannot be cut far enough, or not be found again by its shapes."""
    assert config.compress.prune is not None
    with torch.random.fork_rng(devices=[]):
        network = build_network(config.model, config.input.channels, score_channels(config, labels_of(config)))
        contract = contract_of(config, network)
        if config.compress.prune.macs < 1:
            smallest = cutting.smallest(network, contract, config.compress.prune.macs)
            _as_bytes(smallest, Trained(network, contract, labels_of(config).palette), config)


def _cut(unpruned: bytes, config: Config, kept: Path) -> Trained:
    """The pruned network as it begins, the same for every process and after every kill."""
    assert config.compress.prune is not None
    if rank() == 0 and not kept.exists():
        began = checkpoint.from_bytes(unpruned)
        found = cutting.cut_to(began.network, began.contract, config.compress.prune.macs)
        write_atomically(kept, _as_bytes(found, began, config))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    return checkpoint.from_bytes(kept.read_bytes())


def _as_bytes(network: nn.Module, like: Trained, config: Config) -> bytes:
    """The checkpoint of a pruned network, which must give the same answer when it is made from its shapes again."""
    data = checkpoint.to_bytes(Trained(network, like.contract, like.palette, pruned=True), config.model)
    with torch.random.fork_rng(devices=[]):
        again = checkpoint.from_bytes(data).network
        frame = torch.randn_like(cutting.example(like.contract))
    with torch.inference_mode():
        if not torch.equal(again(frame), network.eval()(frame)):
            raise cutting.refusal("made again from its shapes, it gives another answer")
    return data
