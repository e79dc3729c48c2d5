"""Resume points: one file an epoch, named by its own hash, so that a torn one is never loaded."""

import logging
import re
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from segpipe.errors import TrainingError
from segpipe.storage import sha256_of, sync_directory, sync_file
from stages.train.learner import Learner

_log = logging.getLogger(__name__)
_NAME = re.compile(r"epoch-(\d{5})\.([0-9a-f]{16})\.ckpt")


def newest_resume_point(folder: Path) -> Path | None:
    """The checkpoint of the last completed epoch whose bytes are what its name says."""
    for path in sorted(folder.glob("*.ckpt"), reverse=True):
        match = _NAME.fullmatch(path.name)
        if match and sha256_of(path).startswith(match[2]):
            return path
    return None


class ResumePoints(Callback):
    """After every epoch: keeps the best weights and the history, and makes the epoch durable."""

    def __init__(self, folder: Path, epochs: int) -> None:
        self.best: dict[str, Any] = {"val_miou": -1.0, "epoch": -1, "weights": {}}
        self.history: list[dict[str, float]] = []
        self._folder, self._epochs = folder, epochs
        self._clock = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.history = state["best"], state["history"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clock = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Learner)
        self._note(trainer, pl_module)
        self._keep(trainer)

    def _note(self, trainer: Trainer, learner: Learner) -> None:
        """Add the epoch to the history, refuse NaN, and remember the weights if they are the best so far."""
        loss = sum(learner.losses) / len(learner.losses)
        learner.losses.clear()
        epoch, miou = trainer.current_epoch + 1, float(trainer.callback_metrics["val_miou"])
        if not loss < float("inf"):
            raise TrainingError(
                f"the loss became {loss} in epoch {epoch}", hint="lower train.learning_rate; earlier epochs are kept"
            )
        self.history.append({"epoch": epoch, "loss": round(loss, 6), "val_miou": round(miou, 6)})
        if miou > self.best["val_miou"]:
            weights = {name: tensor.clone() for name, tensor in learner.network.state_dict().items()}
            self.best = {"val_miou": miou, "epoch": epoch, "weights": weights}
        seconds = time.monotonic() - self._clock
        _log.info("train: epoch %d of %d, loss %.4f, mIoU %.4f, %.1f s", epoch, self._epochs, loss, miou, seconds)

    def _keep(self, trainer: Trainer) -> None:
        """Write, sync, rename, and only then drop the epoch before."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / "writing.tmp"
        trainer.save_checkpoint(temporary)
        sync_file(temporary)
        name = f"epoch-{trainer.current_epoch + 1:05d}.{sha256_of(temporary)[:16]}.ckpt"
        temporary.rename(self._folder / name)
        sync_directory(self._folder)
        for path in self._folder.glob("*.ckpt"):
            if path.name != name:
                path.unlink()
