"""The commands for many images: `segpipe batch RUN SOURCE`, and how far it is."""

import logging
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from segpipe.cli.conventions import AsJson, Backend, ComputedIn, Geotiff, RunOrBundle, Unvalidated
from segpipe.console import print_json, print_table
from segpipe.errors import BackendMissingError, InputError
from segpipe.media import MAX_MEGAPIXELS

if TYPE_CHECKING:
    from segpipe.batch.actor import Opening
    from segpipe.batch.cluster import Size
    from segpipe.batch.driver import Crew
    from segpipe.batch.version import Version

_log = logging.getLogger(__name__)
_EXTRA = {"pyarrow", "ray"}
_SHOWN = 20  # broken images in the table


class _Batch(TyperGroup):
    """`segpipe batch RUN SOURCE` is `segpipe batch segment RUN SOURCE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["segment", *args]
        return super().parse_args(ctx, args)


app = typer.Typer()
_group = typer.Typer(cls=_Batch, no_args_is_help=True)
app.add_typer(
    _group,
    name="batch",
    help="Segment many images, with an index of what is done: `segpipe batch RUN SOURCE -o OUT`, "
    "or `segpipe batch status OUT`.",
)


@_group.command()
def segment(
    run: RunOrBundle,
    source: Annotated[
        str,
        typer.Argument(help="Folder with images or WebDataset tars at any depth; a .tar; a .csv or .parquet of paths."),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for masks and the index, in one folder a version.")],
    outputs: Annotated[
        str, typer.Option(help="What to write, with commas between: mask, confidence, rle (into the index).")
    ] = "mask",
    shard: Annotated[
        str, typer.Option(metavar="K/N", help="Do only this share of the images; other drivers do the others.")
    ] = "1/1",
    actors: Annotated[int, typer.Option(min=1, help="Processes that segment, here or on a cluster.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of each process on a cluster, such as 0.5.")] = 0,
    per_call: Annotated[int, typer.Option(min=1, help="Images that a process gets at once.")] = 16,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to work on: auto, HOST:PORT, or local to start one here.")
    ] = None,
    backend: Backend = "auto",
    precision: ComputedIn = None,
    tiled: Annotated[bool, typer.Option(help="Segment large images at full size, in overlapping tiles.")] = False,
    geotiff: Geotiff = False,
    force: Annotated[bool, typer.Option("--force", help="Segment again what is done already.")] = False,
    max_megapixels: Annotated[
        int, typer.Option(min=1, help="Refuse images of more megapixels, before they are decoded.")
    ] = MAX_MEGAPIXELS,
    allow_unvalidated: Unvalidated = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON instead of the folder.")] = False,
) -> None:
    """Segment every image of a folder, list or archive that is not done yet, and keep an index of them all."""
    try:
        import pyarrow  # noqa: F401 - the index is read before anything is segmented

        from segpipe.batch.actor import Opening
        from segpipe.batch.before import require_places
        from segpipe.batch.cluster import Size
        from segpipe.batch.driver import Here, Request, predict_batch
        from segpipe.batch.items import Shard
        from segpipe.batch.version import OUTPUTS, Version
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    from segpipe.console import frame_progress
    from segpipe.installed import rasters
    from segpipe.predicting.job import Job
    from segpipe.runtime.by_task import open_segmenter

    wanted = tuple(kind for kind in OUTPUTS if kind in outputs.split(","))
    if {*outputs.split(",")} != {*wanted} or "mask" not in wanted:
        raise typer.BadParameter(f"--outputs are mask, and with it {', '.join(OUTPUTS[1:])}, got {outputs!r}")
    if geotiff:
        if len(wanted) > 1:
            raise typer.BadParameter(
                "--geotiff writes masks alone: leave out --outputs, or give other images by themselves"
            )
        rasters()  # before anything is segmented
    try:
        share = Shard.parse(shard)
    except ValueError as error:
        raise typer.BadParameter(f"--shard: {error}") from None
    if gpus and not address:
        raise typer.BadParameter("--gpus are those of a cluster: name one with --address, or --address local")
    job = Job(Path(), overlay=False, tiled=tiled, force=force, max_pixels=max_megapixels * 1_000_000,
              confidence="confidence" in wanted, geotiff=geotiff)  # fmt: skip
    folders = require_places(source, out)
    with ExitStack() as ending:
        crew: Crew
        if address or actors > 1:
            size = Size(actors, gpus, per_call, address)
            opening = Opening(
                job, wanted, backend, precision, allow_unvalidated, threads=0 if gpus else 1, folders=folders
            )
            crew, version = _many(ending, run, opening, size)
        else:
            segmenter = open_segmenter(run, backend, precision=precision, allow_unvalidated=allow_unvalidated)
            ending.callback(segmenter.close)
            version = Version.of(segmenter, job, wanted)
            crew = Here(segmenter, job, wanted)
        state = predict_batch(crew, Request(source, out, job, version, share), frame_progress)
    if as_json:
        print_json(state.as_dict())
    else:
        print(state.folder)
    _log.info("%d images: %d done now, %d before, %d broken", state.found, state.done, state.skipped, state.broken)
    if state.broken:
        raise InputError(f"{state.broken} of {state.found} images could not be segmented", hint="see the lines above")


def _many(ending: ExitStack, run: Path, opening: "Opening", size: "Size") -> "tuple[Crew, Version]":
    """A crew that has opened the bundle, and what it opened."""
    from segpipe.batch.actor import holds_engine, packed
    from segpipe.batch.cluster import prepare
    from segpipe.batch.crew import ManyHands
    from segpipe.batch.hands import Hands, LocalHands

    bundle = packed(run)
    hands: Hands = LocalHands()
    if size.address:
        prepare(size)
        try:
            from segpipe.batch.on_ray import connected
        except ModuleNotFoundError as error:
            raise _missing(error) from None
        hands = ending.enter_context(connected(size, len(bundle)))
    crew = ending.enter_context(closing(ManyHands(hands, bundle, opening, size)))
    version = crew.version()
    if size.address and not size.gpus and holds_engine(run):
        _log.warning("%s holds an engine, and processes without --gpus see no GPU: %s runs", run, version.backend)
    return crew, version


@_group.command()
def status(
    out: Annotated[str, typer.Argument(help="Folder that was given to --out.")], as_json: AsJson = False
) -> None:
    """Tell how many images of a batch are done, broken and why, and left; for each version in the folder."""
    try:
        from segpipe.batch.status import duration
        from segpipe.batch.status import status as read
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    found = read(out)
    if as_json:
        return print_json([one.as_dict() for one in found])
    rows = []
    for one in found:
        left = duration(one.left / one.images_per_s) if one.left and one.images_per_s else ""
        counts = (one.done, len(one.broken), one.left)
        fast = f"{one.images_per_s:.1f}" if one.images_per_s else ""  # of a command that found all done, nothing
        rows.append([one.folder, *map(str, counts), fast, left, one.noted_utc])
    print_table(["version", "done", "broken", "left", "images/s", "time left", "noted"], rows)
    broken = [(name, why) for one in found for name, why in one.broken.items()]
    if broken:
        print()
        print_table(["broken", "why"], broken[:_SHOWN])
    if len(broken) > _SHOWN:
        print(f"{len(broken) - _SHOWN} more: --json has them all", file=sys.stderr)
    return None


@_group.command()
def summary(
    out: Annotated[str, typer.Argument(help="Folder that was given to --out.")],
    sample: Annotated[int, typer.Option(min=0, max=500, help="Images of the random sample.")] = 24,
    seed: Annotated[int, typer.Option(help="Another one draws another sample.")] = 0,
) -> None:
    """Write a page for each version: images over time, shares of classes, slowest and broken images, a sample."""
    try:
        from segpipe.batch.summary_page import write_summaries
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    for path in write_summaries(out, seed, sample):
        print(path)


def _missing(error: ModuleNotFoundError) -> Exception:
    if error.name is None or error.name.partition(".")[0] not in _EXTRA:
        return error
    return BackendMissingError(f"this needs {error.name}", hint="pip install 'segpipe[batch]'")
