"""What every command shares: option types, one way to run stages, errors as one line and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from segpipe.artifacts import Precision
from segpipe.cli.interrupted import say_interrupted
from segpipe.console import print_error
from segpipe.errors import BackendMissingError, SegpipeError

_UsageError: Any = typer.BadParameter.__base__  # Typer brings it from click, or from its own copy of click
PIPELINE = {
    "faster_coco_eval", "jinja2", "lightning", "matplotlib", "onnx", "onnxscript", "safetensors",
    "segmentation_models_pytorch", "tensorboard", "tomli_w", "torch", "torchmetrics", "torchvision",
}  # fmt: skip
"""Modules of the extra `pipeline`, which a machine that only segments does without."""

Run = Annotated[
    Path, typer.Argument(help="Run directory, with segpipe.toml and what the stages made.", show_default=False)
]
RunOrBundle = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run directory, or a bundle made of one.", show_default=False)
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="TABLE.KEY=VALUE",
        help="Another value for a setting of segpipe.toml, in this command alone; may be repeated.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Run the stage again, although nothing that it is made from has changed.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Backend = Annotated[
    str,
    typer.Option(
        help="What runs the network, such as onnxruntime-cpu; auto, gpu and cpu take the best that works here."
    ),
]
ComputedIn = Annotated[
    Precision | None,
    typer.Option("--precision", help="Run what computes in this precision, also one that auto would not choose."),
]
Geotiff = Annotated[
    bool,
    typer.Option(
        "--geotiff", help="Read TIFFs of any size by windows (.tif, .tiff, .svs), and write their masks as GeoTIFF."
    ),
]
Unvalidated = Annotated[
    bool,
    typer.Option(
        "--allow-unvalidated", help="Open a network that the release gate has not passed; meant for development."
    ),
]


@contextmanager
def one_line() -> Iterator[None]:
    """Turn known errors, wrong usage and Ctrl-C into one line on stderr and an exit code."""
    try:
        yield
    except SegpipeError as error:
        print_error(error)
        raise typer.Exit(error.exit_code) from None
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # no error: the help is what was asked for
            raise
        print_error(_worded(error))
        raise typer.Exit(error.exit_code) from None
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in PIPELINE:
            raise
        missing = BackendMissingError(f"this needs {error.name}", hint="pip install 'segpipe[pipeline]'")
        print_error(missing)
        raise typer.Exit(missing.exit_code) from None
    except KeyboardInterrupt:
        raise typer.Exit(say_interrupted()) from None


def _worded(error: Any) -> SegpipeError:
    """Typer would draw a box of 80 columns around it, and break a path across its lines."""
    command = error.ctx.command_path if error.ctx else "segpipe"
    return SegpipeError(error.format_message().rstrip("."), hint=f"`{command} --help` lists what it takes")


class Commands(TyperGroup):
    """Errors are one line, for every command alike."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with one_line():
            return super().invoke(ctx)
