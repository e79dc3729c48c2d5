"""The core of adopting: a network that is trained already, and its weights -> what training would have left of it.

Everything runs in evaluation mode, and that nothing of the network moved is looked at in the end.
"""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segpipe.cores import usable_cores
from segpipe.errors import ConfigError, SegpipeError
from segpipe.metrics import scores
from stages.config.draft import draft_contract
from stages.config.root import Config
from stages.data import SplitName, labels_of, open_split
from stages.data.check import val_serves
from stages.models import build_for, checkpoint, trained_file
from stages.models.adopted import Adopted, load_trained
from stages.models.checkpoint import Trained
from stages.tasks import offline_task_of
from stages.train import pictures
from stages.train.accuracy import Accuracy, accuracy_on, test_figures, things_figures, unscored_figures
from stages.train.contract import contract_of, refuse_broken_promises
from stages.train.fit import Outcome
from stages.train.trainer import lost_workers_explained

_log = logging.getLogger(__name__)


def adopt(config: Config, base: Path) -> Outcome:
    """Build the network, load its weights, and measure it on val and test as training does."""
    torch.set_num_threads(config.train.threads or usable_cores())
    network, loaded = _loaded(config, base)
    _log.info("adopt: %s", loaded)
    contract = contract_of(config, network)
    refuse_broken_promises(network, config, contract)
    pruned = checkpoint.is_pruned(trained_file(config.model, base))
    trained = Trained(network, contract, labels_of(config).palette, pruned)
    weights = checkpoint.to_bytes(trained, config.model)
    val = _accuracy(trained, config, base, "val")
    own_test = not val_serves(config, base, "test")
    test = _accuracy(trained, config, base, "test") if own_test else val
    if checkpoint.to_bytes(trained, config.model) != weights:
        raise ConfigError(
            f"[model] {config.model.name} changes its own weights or buffers while it answers",
            hint="keep them as they are in eval mode",
        )
    figures = {
        "val_miou": round(scores(val.matrix, contract.unscored_numbers).mean_iou, 6),
        **({} if val.things is None else {"val_ap": round(offline_task_of(contract).headline_of(val.things), 6)}),
        **test_figures(test.matrix, contract),
        **things_figures(test),
        **unscored_figures(val.matrix, contract),
        **({} if own_test else {"test_split": "val"}),
        "adopted": {**asdict(loaded), "left": list(loaded.left)},
    }
    return Outcome(trained, figures, _files(trained, val, test) | {checkpoint.FILE_NAME: weights})


def _loaded(config: Config, base: Path) -> tuple[nn.Module, Adopted]:
    """The network in evaluation mode, with its weights."""
    name = config.model.name
    draft = draft_contract(config)
    try:
        network = build_for(config.model, draft)
    except SegpipeError:
        raise
    except (Exception, SystemExit) as error:  # whatever somebody else's code raises; scripts parse arguments
        raise ConfigError(
            f"[model] {name} raised {type(error).__name__}: {error}", hint="mend the factory, or [model] options"
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"[model] {name} gave a {type(network).__name__}", hint="return the network, a torch.nn.Module"
        )
    checkpoint.refuse_unkept_state(network, name)
    loaded = load_trained(network, config.model, base)
    return network.eval(), loaded


def _accuracy(trained: Trained, config: Config, base: Path, name: SplitName) -> Accuracy:
    """Of a split, where training measures: on the GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = trained.network.to(device).to(memory_format=torch.channels_last)
    task = offline_task_of(trained.contract)
    try:
        with lost_workers_explained(config.train):
            split = open_split(config, base, name)
            return accuracy_on(
                split, lambda frame: task.segment(network, frame), trained.contract, config.train.workers
            )
    finally:
        trained.network.cpu()


def _files(trained: Trained, val: Accuracy, test: Accuracy) -> dict[str, bytes]:
    """The stage's outputs by name, but for what only a training has."""
    classes = trained.contract.classes
    matrices: dict[str, Any] = {"classes": classes, "val": val.matrix.tolist(), "test": test.matrix.tolist()}
    return {
        "confusion.json": json.dumps(matrices).encode(),
        "confusion.png": pictures.confusion_png(test.matrix, classes),
        "best.png": pictures.overlays_png(test.gallery.best, trained),
        "worst.png": pictures.overlays_png(test.gallery.worst, trained),
    }
