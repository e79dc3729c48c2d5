"""Commands that use a finished run: masks of images, and bundles to deploy."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from segpipe.cli.conventions import Backend, ComputedIn, Geotiff, RunOrBundle, Unvalidated
from segpipe.errors import InputError
from segpipe.media import MAX_MEGAPIXELS

_log = logging.getLogger(__name__)

app = typer.Typer()


@app.command()
def predict(
    run: RunOrBundle,
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Images, videos, folders, globs; one stream (rtsp://...) or camera (/dev/video0); - reads raw frames."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for masks/, overlays/ ...; - writes raw masks.")],
    backend: Backend = "auto",
    precision: ComputedIn = None,
    overlay: Annotated[bool, typer.Option(help="Write each image with the mask's colours laid over it.")] = True,
    colour: Annotated[
        bool, typer.Option("--colour", help="Write each mask also as a picture in the colours of its classes.")
    ] = False,
    tiled: Annotated[bool, typer.Option(help="Segment large images at full size, in overlapping tiles.")] = False,
    geotiff: Geotiff = False,
    size: Annotated[
        tuple[int, int] | None, typer.Option(help="Height and width of the frames in a raw stream.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Segment again what has a mask in the folder already.")
    ] = False,
    max_megapixels: Annotated[
        int, typer.Option(min=1, help="Refuse images of more megapixels, before they are decoded.")
    ] = (MAX_MEGAPIXELS),
    drop_late: Annotated[
        bool,
        typer.Option("--drop-late", help="Of a stream or camera, drop what waits too long instead of falling behind."),
    ] = False,
    reconnect: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Try for so long to open a stream again that broke off.")
    ] = 0,
    allow_unvalidated: Unvalidated = False,
) -> None:
    """Segment images, videos, a raw stream or a live one with the runtime that production uses.

    A network for things writes things/ (COCO's JSON) beside masks/ (id maps) and overlays/, of images and videos.
    """
    from segpipe.console import frame_progress
    from segpipe.installed import rasters
    from segpipe.media.address import is_live, live_address
    from segpipe.media.video_file import why_browsers_do_not_play
    from segpipe.predicting.inputs import find_inputs
    from segpipe.predicting.job import Job, Live
    from segpipe.predicting.live import predict_live
    from segpipe.predicting.predict import predict_files
    from segpipe.predicting.raw import predict_raw
    from segpipe.predicting.video import VIDEO_SUFFIXES, count_frames
    from segpipe.runtime.by_task import open_segmenter
    from segpipe.runtime.instance_segmenter import InstanceSegmenter

    raw = inputs == ["-"]
    if raw != (str(out) == "-") or raw != (size is not None) or (size is not None and min(size) < 1):
        raise typer.BadParameter("a raw stream is `- -o - --size HEIGHT WIDTH`, all three, of one pixel or more")
    live = any(map(is_live, inputs))
    if live and len(inputs) > 1:
        raise typer.BadParameter("a stream or camera is predicted alone: start a command for each")
    if not live and (drop_late or reconnect):
        raise typer.BadParameter("--drop-late and --reconnect are for a stream or camera")
    address = live_address(inputs[0]) if live else None
    job = Job(out, overlay, colour, tiled, force, max_megapixels * 1_000_000, geotiff=geotiff)
    files = [] if raw or live else find_inputs(inputs, job.rasters)
    if geotiff:
        rasters()  # before anything is segmented
    total = None if raw or live else sum(count_frames(f) if f.suffix.lower() in VIDEO_SUFFIXES else 1 for f in files)
    with (
        open_segmenter(run, backend, precision=precision, allow_unvalidated=allow_unvalidated) as segmenter,
        frame_progress(total) as tick,
    ):
        if isinstance(segmenter, InstanceSegmenter):
            if raw or live or geotiff:
                what = "GeoTIFF" if geotiff else "raw and live streams"
                hint = "leave out --geotiff, use --tiled" if geotiff else "give images, videos or folders"
                raise InputError(f"{run} tells things one by one: not of {what} yet", hint=hint)
        elif raw and size is not None:
            predict_raw(segmenter, sys.stdin.buffer, sys.stdout.buffer, size, job=job, tick=tick)
            return
        elif address is not None:
            predict_live(segmenter, address, job, Live(drop_late, reconnect), tick)
            print(out)
            return
        done, broken = predict_files(segmenter, files, job, tick)
    print(out)
    for answer in done:
        if answer.image.suffix.lower() in VIDEO_SUFFIXES:
            beside = f", frames beside overlays in {answer.overlay}" if overlay else ""
            _log.info("%s: masks in %s%s", answer.image, answer.mask, beside)
    written = [answer for answer in done if answer.image.suffix.lower() in VIDEO_SUFFIXES and not answer.skipped]
    if overlay and written and (why := why_browsers_do_not_play()):
        _log.info("VLC and mpv play these videos, browsers do not (H.264 is not here): %s; then --force", why)
    if broken:
        raise InputError(f"{len(broken)} of {len(files)} inputs could not be segmented", hint="see the lines above")


@app.command()
def bundle(
    run: RunOrBundle,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the bundle to; must be new or empty.")],
    with_reference: Annotated[
        bool,
        typer.Option(
            "--with-reference",
            help="Add stored answers and their images, so that `validate --hop` works where the bundle goes.",
        ),
    ] = False,
) -> None:
    """Copy what the runtime needs of a run, and nothing else, into a folder to deploy."""
    from segpipe.bundle import write_bundle
    from segpipe.rundir.directory import RunDirectory

    print(write_bundle(RunDirectory(run), out, with_reference))
