"""The tree of errors segpipe raises on purpose. Each says what is wrong with its values, and what to do next."""

import shlex
from pathlib import Path


class SegpipeError(Exception):
    """A known error: one line for a person, a `hint` naming the next action, and the exit code of the CLI."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class InputError(SegpipeError, ValueError):
    """A frame, file or value handed to segpipe is not what was agreed."""


class ConfigError(SegpipeError, ValueError):
    """The TOML file or a --set override is wrong."""


class DataError(SegpipeError, ValueError):
    """Training data is missing, unreadable or contradicts the config."""


class ContractError(SegpipeError, ValueError):
    """A contract is malformed, or two artifacts disagree about it."""


class NotARunError(SegpipeError, FileNotFoundError):
    """The directory holds no run."""


class ManifestError(SegpipeError, ValueError):
    """manifest.json cannot be read."""


class ArtifactMissingError(SegpipeError, FileNotFoundError):
    """A stage has not run, or one of its files is gone."""


class ArtifactDamagedError(SegpipeError, ValueError):
    """A file's bytes are not those its record vouches for."""


class RunLockedError(SegpipeError, RuntimeError):
    """Another process is writing to the run directory."""


class StorageError(SegpipeError, OSError):
    """The operating system refused a read or a write: disk full, read-only, no permission."""


class TrainingError(SegpipeError, RuntimeError):
    """Training cannot go on."""


class ExportError(SegpipeError, RuntimeError):
    """The network cannot be turned into a graph, or the graph is not the network."""


class BuildError(SegpipeError, RuntimeError):
    """TensorRT refused the graph, or built something else than was asked for."""


class BackendError(SegpipeError, RuntimeError):
    """A backend cannot be opened or failed while it ran."""


class UnfitFrameError(BackendError):
    """The network, as it was exported or built, takes no frame of this size."""


class BackendMissingError(SegpipeError, ImportError):
    """A package that a backend or stage needs is not installed."""


class NotValidatedError(SegpipeError, RuntimeError):
    """The artifact has no passed verdict of the release gate."""


class GateFailedError(SegpipeError):
    """The release gate compared and the numbers differ."""

    exit_code = 3


def word(path: Path | str) -> str:
    """A path as one word of a command that a hint names: it is to be pasted into a shell."""
    return shlex.quote(str(path))
