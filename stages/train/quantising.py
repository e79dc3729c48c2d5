"""Training for INT8: a trained network goes on with everything rounded, and is then the float twin of its INT8 form."""

import json
import logging
from pathlib import Path

import torch

from segpipe.artifacts import RANGES, UNQUANTISED
from segpipe.metrics import scores
from stages.config.root import Config
from stages.data import labels_of
from stages.models import build_network, checkpoint
from stages.results.figures import ForInt8
from stages.train import rounding
from stages.train.contract import score_channels
from stages.train.fit import Learned, Outcome, learn, outcome_of, tested
from stages.train.further import Begun, settings_for
from stages.train.trainer import Folders

_RATE = 0.1
"""Of the learning rate: weights move by steps of a hundredth."""
_LOST = 0.01
"""Of the mean IoU: more than INT8 may cost anyway."""
_CARRIED = ("pretrained", "distilled", "pruned")
"""Figures of the training before that still say how the network came to be."""
_log = logging.getLogger(__name__)


def fit_quantised(config: Config, base: Path, folders: Folders, begun: Begun) -> Outcome:
    """The float twin with its ranges, measured both as it is and as INT8 rounds it."""
    learned = learn_quantised(config, base, folders, begun.network)
    contract, network = learned.learner.contract, learned.learner.network
    rounded = scores(tested(learned, config, base).matrix, contract.unscored_numbers).mean_iou
    rounded_on_val = learned.points.best["val_miou"]
    ranges = rounding.taken_off(network)
    learned.points.best["weights"] = network.state_dict()
    outcome = outcome_of(learned, config, base)
    before = before_int8(begun)
    if before.before_val_miou is not None and rounded_on_val < before.before_val_miou - _LOST:
        _log.warning(
            "int8: rounded, the network reaches val mIoU %.4f, before it reached %.4f in floats: try more qat_epochs",
            rounded_on_val, before.before_val_miou,
        )  # fmt: skip
    told = before.model_copy(
        update={"epochs": config.compress.qat_epochs, "layers": len(ranges),
                "val_miou": round(rounded_on_val, 6), "test_miou": round(rounded, 6)}
    )  # fmt: skip
    carried = {name: begun.figures[name] for name in _CARRIED if name in begun.figures}
    files = {RANGES: json.dumps(ranges, indent=1).encode(), UNQUANTISED: begun.network, **begun.files}
    figures = {**outcome.figures, **carried, "for_int8": told.model_dump(mode="json")}
    return Outcome(outcome.trained, figures, {**outcome.files, **files})


def learn_quantised(config: Config, base: Path, folders: Folders, begun: bytes) -> Learned:
    """Train on with everything rounded. Every process takes part."""
    network = checkpoint.from_bytes(begun)
    layers = rounding.put_on(network.network)
    _log.info("int8: %d more epochs, with the numbers of %d layers rounded", config.compress.qat_epochs, layers)
    return learn(_settings(config), base, folders.of("int8"), network)


def refuse_unroundable(config: Config) -> None:
    """Before anything is trained."""
    with torch.random.fork_rng(devices=[]):
        outputs = score_channels(config, labels_of(config))
        rounding.put_on(build_network(config.model, config.input.channels, outputs))


def before_int8(begun: Begun) -> ForInt8:
    """What the network reached that it began with."""
    if "for_int8" in begun.figures:  # a training that this one replaces began with it
        return ForInt8.model_validate(begun.figures["for_int8"])
    return ForInt8(before_val_miou=begun.figures.get("val_miou"), before_test_miou=begun.figures.get("test_miou"))


def _settings(config: Config) -> Config:
    """Full precision around the rounding, no average of weights that are rounded each by itself, no compiler."""
    further = settings_for(config, config.compress.qat_epochs, _RATE)
    plain = {"precision": "fp32", "average": "none", "compile": False}
    return further.model_copy(update={"train": further.train.model_copy(update=plain)})
