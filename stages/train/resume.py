"""Resume points: one file an epoch, named by its own hash, so that a torn one is never loaded."""

import logging
import re
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from segpipe.rundir.storage import sha256_of, sync_directory, sync_file
from stages.train.learner import Learner

_log = logging.getLogger(__name__)
_NUMBERING = "seeds2"
"""Of the random numbers of a step: epochs of two numberings make no training that could be repeated."""
_NAME = re.compile(rf"epoch-\d{{5}}\.{_NUMBERING}\.([0-9a-f]{{16}})\.ckpt")
LEARNING_RATE = "learning_rate.txt"
"""What the finder found, beside the resume points."""


def newest_resume_point(folder: Path) -> Path | None:
    """The checkpoint of the last completed epoch whose bytes are what its name says."""
    for path in sorted(folder.glob("*.ckpt"), reverse=True):
        match = _NAME.fullmatch(path.name)
        if match and sha256_of(path).startswith(match[1]):
            return path
    return None


def drop_other_numberings(folder: Path) -> None:
    """Let a training that an older segpipe left half-done start over, and say so."""
    others = [path for path in folder.glob("*.ckpt") if not _NAME.fullmatch(path.name)]
    if not others:
        return
    _log.warning("train: starts over: an older segpipe left it half-done, with random numbers of another kind")
    for path in (*others, folder / LEARNING_RATE):
        path.unlink(missing_ok=True)


class ResumePoints(Callback):
    """After every epoch: keeps the best weights and the history, and makes the epoch durable.

    Must stand before any callback that swaps weights for validation, to see those that were validated.
    """

    def __init__(self, folder: Path, epochs: int, headline: str, title: str = "train") -> None:
        self.best: dict[str, Any] = {headline: -1.0, "epoch": -1, "weights": {}, "confusion": []}
        self.history: list[dict[str, float]] = []
        self._validated: dict[str, Tensor] = {}
        self._folder, self._epochs, self.headline, self._title = folder, epochs, headline, title
        self._clock = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.history = state["best"], state["history"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clock = time.monotonic()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Learner)
        state = pl_module.network.state_dict()
        self._validated = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Learner)
        self._note(trainer, pl_module)

    def _note(self, trainer: Trainer, learner: Learner) -> None:
        """Add the epoch to the history, and remember the weights if they are the best so far."""
        loss = sum(learner.losses) / len(learner.losses)
        learner.forget_losses()
        epoch, score = trainer.current_epoch + 1, float(trainer.callback_metrics[self.headline])
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        self.history.append(
            {"epoch": epoch, "loss": round(loss, 6), self.headline: round(score, 6), "learning_rate": round(rate, 9)}
        )
        if score > self.best[self.headline] or not self.best["weights"]:
            counted = learner.task.kept(learner.validated)
            self.best = {self.headline: score, "epoch": epoch, "weights": self._validated, "confusion": counted}
        if trainer.is_global_zero:
            seconds = time.monotonic() - self._clock
            done = (self._title, epoch, self._epochs, loss, learner.task.told(learner.validated), seconds)
            _log.info("%s: epoch %d of %d, loss %.4f, %s, %.1f s", *done)


class KeepResumePoint(Callback):
    """Writes the epoch's checkpoint. Must stand last, so that it holds what all others did in the epoch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.keep(trainer)

    def keep(self, trainer: Trainer) -> None:
        """Write, sync, rename, and only then drop the epoch before. Every process must take part."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / "writing.tmp"
        trainer.save_checkpoint(temporary)
        if not trainer.is_global_zero:
            return
        sync_file(temporary)
        name = f"epoch-{trainer.current_epoch + 1:05d}.{_NUMBERING}.{sha256_of(temporary)[:16]}.ckpt"
        temporary.rename(self._folder / name)
        sync_directory(self._folder)
        for path in self._folder.glob("*.ckpt"):
            if path.name != name:
                path.unlink()
