"""Files in, masks and pictures out: what `segpipe predict` does with images and videos."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segpipe.errors import InputError, SegpipeError, StorageError
from segpipe.installed import rasters
from segpipe.instances import Instances, coco_document
from segpipe.media.files import read_regular
from segpipe.media.images import encode_png, write_png
from segpipe.predicting.done import Source, is_done, seal, seal_json, write_json
from segpipe.predicting.image import concerns_one, mask_of, segment, shown
from segpipe.predicting.job import COLOURS, MASKS, OVERLAYS, THINGS, VIDEOS, Advance, AnySegmenter, Job, Predicted
from segpipe.predicting.ownership import TakenError, remove_made_of, remove_stale, require_ours
from segpipe.predicting.video import VIDEO_SUFFIXES, predict_video, remove_video
from segpipe.rundir.storage import explained_refusals, sweep_temporaries
from segpipe.runtime.instance_segmenter import InstanceSegmenter
from segpipe.runtime.streaming import ordered

_log = logging.getLogger(__name__)

_WORKERS = 2  # one image is decoded or encoded while the network has another


def predict_files(
    segmenter: AnySegmenter, inputs: Iterable[Path], out: Path | Job, advance: Advance | None = None
) -> tuple[list[Predicted], list[SegpipeError]]:
    """Segment each file. What is done is skipped; a broken file is reported and the rest goes on.

    What was made of a broken file before is removed: a mask that lies there is one of what its source holds now.
    What carries no record of segpipe is somebody's: it is neither replaced nor removed, and its input is reported.
    """
    job = out if isinstance(out, Job) else Job(out)
    paths = list(inputs)
    _prepare(job, paths)
    done, broken, hinted = [], [], set()
    for answer in _answers(segmenter, paths, job, advance or _unseen):
        if isinstance(answer, SegpipeError):
            broken.append(answer)
            _log.error("%s", answer.message if answer.hint in hinted else answer)  # many files, one remedy
            hinted.add(answer.hint)
        else:
            done.append(answer)
    if skipped := sum(answer.skipped for answer in done):
        _log.info("%d of %d were done before", skipped, len(done))
    return done, broken


def _unseen(frames: int, /, *, skipped: bool = False) -> None:
    """Nobody watches."""


def _prepare(job: Job, inputs: Sequence[Path]) -> None:
    """Refuse inputs that would be written over, and delete what a kill left half written."""
    with explained_refusals(str(job.out)):
        job.out.mkdir(parents=True, exist_ok=True)
        written = {(job.out / folder).resolve(): folder for folder in (MASKS, OVERLAYS, COLOURS, VIDEOS, THINGS)}
    parents = {parent: parent.resolve() for parent in {path.parent for path in inputs}}
    for path in inputs:
        behind = Path(os.path.realpath(path)).parent if path.is_symlink() else parents[path.parent]
        if taken := written.get(parents[path.parent]) or written.get(behind):
            raise InputError(f"{path} lies where {taken} are written", hint="give another folder with --out")
    for folder in written:
        sweep_temporaries(folder)


def _answers(
    segmenter: AnySegmenter, inputs: list[Path], job: Job, tick: Advance
) -> Iterator[Predicted | SegpipeError]:
    """Images several at a time, then rasters and videos, which overlap their own tiles and frames."""

    def image(path: Path) -> Predicted | SegpipeError:
        return _attempt(path, lambda: _predict_image(segmenter, path, job), lambda: _remove_image(path, job))

    def video(path: Path) -> Predicted | SegpipeError:
        return _attempt(path, lambda: predict_video(segmenter, path, job, tick), lambda: remove_video(path, job))

    def raster(path: Path) -> Predicted | SegpipeError:
        if isinstance(segmenter, InstanceSegmenter):
            return InputError(f"{path}: things are not written as GeoTIFF", hint="leave out --geotiff")
        own = rasters()
        return _attempt(path, lambda: own.predict_raster(segmenter, path, job), lambda: _remove_raster(path, job))

    videos, large, images = _sorted_out(inputs, job)
    for answer in ordered(image, images, _WORKERS):
        tick(1, skipped=isinstance(answer, Predicted) and answer.skipped)
        yield answer
    for answer in map(raster, large):
        tick(1, skipped=isinstance(answer, Predicted) and answer.skipped)
        yield answer
    yield from map(video, videos)


def _sorted_out(inputs: list[Path], job: Job) -> tuple[list[Path], list[Path], list[Path]]:
    """Videos, rasters and images."""
    videos = [path for path in inputs if path.suffix.lower() in VIDEO_SUFFIXES]
    large = [path for path in inputs if path.suffix.lower() in job.rasters]
    return videos, large, [path for path in inputs if path.suffix.lower() not in VIDEO_SUFFIXES | job.rasters]


def _attempt(path: Path, make: Callable[[], Predicted], remove: Callable[[], bool]) -> Predicted | SegpipeError:
    """What was made of an input, or the error that is about this input alone."""
    try:
        return make()
    except TakenError as error:
        return InputError(f"{path}: {error.message}", hint=error.hint)
    except (InputError, StorageError) as error:
        if not concerns_one(error):
            raise
        message = error.message if str(path) in error.message else f"{path}: {error.message}"
        removed = " (what was made of it before was removed)" if remove() else ""
        return InputError(f"{message}{removed}", hint=error.hint)


def _predict_image(segmenter: AnySegmenter, path: Path, job: Job) -> Predicted:
    files = {folder: _picture(job, folder, path) for folder in (MASKS, OVERLAYS)}
    content = read_regular(path)
    source = Source.of_bytes(path, content)
    origins = {folder: job.origin(segmenter, source, folder) for folder in job.written_for(segmenter)}
    if not job.force and all(is_done(_picture(job, folder, path), origins[folder]) for folder in origins):
        return Predicted(path, files[MASKS], files[OVERLAYS], skipped=True)
    for folder in origins:
        require_ours(_picture(job, folder, path), job.out)
    frame, mask, _ = segment(segmenter, path, content, job)
    if isinstance(mask, Instances) and mask.exceeded:
        _log.warning(
            "%s: each of the network's %d rows is a thing: there may be more, see --tiled", path, mask.contract.top
        )
    for folder in {OVERLAYS, COLOURS, THINGS}.difference(origins):
        if remove_stale(stale := _picture(job, folder, path), source, job.out):
            _log.info("%s: removed, it was made of another %s", stale, path.name)
    for folder, origin in origins.items():
        file = _picture(job, folder, path)
        require_ours(file, job.out)
        if folder == THINGS:
            write_json(file, seal_json(coco_document(mask, path.name), origin))
        else:
            write_png(file, seal(encode_png(file, _drawn(folder, segmenter, frame, mask)), origin))
    return Predicted(path, files[MASKS], files[OVERLAYS])


def _drawn(folder: str, segmenter: AnySegmenter, frame: NDArray[Any], answer: Any) -> NDArray[Any]:
    """The picture that belongs into a folder."""
    if folder == MASKS:
        return mask_of(answer)
    picture = shown(segmenter, answer)
    return picture.colour() if folder == COLOURS else picture.overlay(frame)


def _picture(job: Job, folder: str, path: Path) -> Path:
    target = job.target(folder, path)
    return target.with_name(f"{target.name}.{'json' if folder == THINGS else 'png'}")


def _remove_image(path: Path, job: Job) -> bool:
    """Delete what was made of an input before; whether there was something."""
    folders = (THINGS, MASKS, OVERLAYS, COLOURS)
    removed = [remove_made_of(_picture(job, folder, path), path, job.out) for folder in folders]
    return any(removed)


def _remove_raster(path: Path, job: Job) -> bool:
    """The same of what is read by windows."""
    return remove_made_of(rasters().mask_of(job, path), path, job.out)
