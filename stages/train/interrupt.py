"""Ctrl-C during training: noted at once, obeyed before the next batch, and told as KeyboardInterrupt.

Lightning turns the signal into an exit of its own, and loader workers die of it in the middle of a batch.
"""

import signal
import threading
from types import FrameType
from typing import Any, Self

from lightning.pytorch import Callback


class _StopAskedError(Exception):
    """Ends Lightning's loops the ordinary way."""


class StopOnCtrlC(Callback):
    """A context around training; also one of its callbacks."""

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if kind is not None and issubclass(kind, _StopAskedError):
            raise KeyboardInterrupt

    def on_train_batch_start(self, *_: Any) -> None:
        self.obey()

    def on_validation_batch_start(self, *_: Any) -> None:
        self.obey()

    def obey(self) -> None:
        """Stop here if Ctrl-C was pressed."""
        if self._asked:
            raise _StopAskedError

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
