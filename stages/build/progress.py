"""A build's progress as a bar on stderr, and Ctrl-C that stops TensorRT at its next step instead of tearing it down."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from segpipe.runtime.trt.building import BuildCancelledError


class BuildProgress:
    """TensorRT's phases as nested bars."""

    def __init__(self, label: str, bars: Progress) -> None:
        self.cancelled = False
        self._label, self._bars = label, bars
        self._tasks: dict[str, TaskID] = {}

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        text = phase if parent else f"{self._label}: {phase.lower()}"
        self._tasks[phase] = self._bars.add_task(text, total=steps)

    def go_on(self, phase: str, step: int) -> bool:
        """A step is done; False stops the build."""
        if phase in self._tasks:
            self._bars.update(self._tasks[phase], completed=step + 1)
        return not self.cancelled

    def finish(self, phase: str) -> None:
        """A phase is over; only the outermost stays to be seen."""
        task = self._tasks.pop(phase, None)
        if task is not None and self._tasks:
            self._bars.remove_task(task)


@contextmanager
def shown(label: str) -> Iterator[BuildProgress]:
    """Show a bar where stderr is a terminal. Ctrl-C cancels the build and becomes KeyboardInterrupt after it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bars:
        progress = BuildProgress(label, bars)
        with _interrupts_noted(progress):
            try:
                yield progress
            except BuildCancelledError:
                raise KeyboardInterrupt from None
        if progress.cancelled:
            raise KeyboardInterrupt


@contextmanager
def _interrupts_noted(progress: BuildProgress) -> Iterator[None]:
    """An exception thrown into TensorRT's C++ would abort the process: note the signal, let the next step tell it."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def note(_: int, __: FrameType | None) -> None:
        progress.cancelled = True

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
