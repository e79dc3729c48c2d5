"""The stages in the order of the pipeline, and what each is made from. Light: `segpipe --help` loads it."""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from segpipe.rundir.directory import RunDirectory
    from stages.config.root import Config


@dataclass(frozen=True)
class Stage:
    """One row. Its code is the package `stages.<name>`, its figures are a model in `stages.results.figures`."""

    name: str
    needs: tuple[str, ...] = ()
    """Stages whose files it is made from."""
    optional: tuple[str, ...] = ()
    """Stages whose files it takes in as well, where the run has them."""
    replaces: str = ""
    """The stage that a run does without when it has this one."""
    command: str = ""
    """What runs it, where it is no part of `segpipe run`."""

    @property
    def run(self) -> "Callable[[RunDirectory, Config, Path], object]":
        """What makes the stage, unless it is fresh."""
        return import_module(f"stages.{self.name}").run

    def headline(self, figures: Mapping[str, Any]) -> str:
        """One line for `segpipe show`; empty where this version cannot read the record."""
        from stages.results.figures import MODELS, parse

        found = parse(MODELS[self.name], figures)
        return found.headline() if found else ""


TABLE = (
    Stage("train"),
    Stage("import", replaces="train", command="import"),
    Stage("export", needs=("train",)),
    Stage("build", needs=("export",)),
    Stage("validate", needs=("export",), optional=("train", "build")),
    Stage("benchmark", needs=("export",), optional=("train", "build", "validate")),
    Stage("islands", needs=("export",), command="run --auto-islands"),
)
NAMES = tuple(stage.name for stage in TABLE if not stage.command)
"""What `segpipe run` runs, in order."""
FIRST, LAST = NAMES[0], NAMES[-1]

if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[NAMES]  # for Typer: the choices of --from and --until


def row(name: str) -> Stage:
    """The stage of that name."""
    return next(stage for stage in TABLE if stage.name == name)


def replaced(name: str, present: Container[str]) -> bool:
    """Whether a run with the stages `present` does without this one."""
    return any(stage.replaces == name and stage.name in present for stage in TABLE)


def sources(name: str, present: Container[str]) -> tuple[str, ...]:
    """Stages that this one is made from in a run with the stages `present`: what it needs, and what else is there."""
    stage = row(name)
    return (*stage.needs, *(other for other in stage.optional if other in present))
