"""Ctrl-C in a training: noted at once, acted on between batches, and a KeyboardInterrupt in the end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback


class _StopAsked(Exception):  # noqa: N818 - no error: Lightning turns a KeyboardInterrupt into SystemExit(1), not this
    pass


class Interrupts(Callback):
    """Stops before the next batch once SIGINT came. Loader workers inherit the handler, so they outlive a Ctrl-C."""

    def __init__(self) -> None:
        self._asked = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Signals reach the main thread alone; in others nothing is changed. A second Ctrl-C does not wait."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._note)
        try:
            yield
            self.stop_if_asked()
        except _StopAsked:
            raise KeyboardInterrupt from None
        except SystemExit as end:
            if isinstance(end.__context__, KeyboardInterrupt):  # Lightning's doing
                raise KeyboardInterrupt from None
            raise
        finally:
            signal.signal(signal.SIGINT, before)

    def stop_if_asked(self) -> None:
        """For loops that are not Lightning's."""
        if self._asked:
            raise _StopAsked

    def on_train_batch_start(self, *_: Any) -> None:
        self.stop_if_asked()

    def on_validation_batch_start(self, *_: Any) -> None:
        self.stop_if_asked()

    def _note(self, *_: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
