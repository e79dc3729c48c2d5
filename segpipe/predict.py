"""Files in, masks and pictures out: what `segpipe predict` does with images and folders of them."""

import glob
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segpipe import draw
from segpipe.errors import InputError
from segpipe.images import SUFFIXES, read_image, write_image
from segpipe.runtime.segmenter import Segmenter
from segpipe.runtime.streaming import ordered
from segpipe.storage import explained_reads, explained_refusals, write_atomically
from segpipe.video import VIDEO_SUFFIXES, count_frames, predict_video

_log = logging.getLogger(__name__)

STAMP = "segpipe-predicted.json"  # which artifact made the pictures; those of another are made again
_WORKERS = 2  # one image is decoded or encoded while the network has another


@dataclass(frozen=True)
class Job:
    """What to write beside index masks, and how."""

    out: Path
    overlay: bool = True
    colour: bool = False
    tiled: bool = False
    """Cut every image into tiles; those over the segmenter's limit are in any case."""
    force: bool = False
    """Make again what is there."""


@dataclass(frozen=True)
class Predicted:
    """What was written for one input; for a video `mask` is a folder and `overlay` a side-by-side video."""

    image: Path
    mask: Path
    overlay: Path
    frames: int = 1
    skipped: bool = False


def find_inputs(inputs: Sequence[str]) -> list[Path]:
    """Files, folders and globs to images and videos, in order and once each."""
    found: dict[Path, None] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            matches = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES | VIDEO_SUFFIXES)
        else:
            matches = [path] if path.exists() else sorted(map(Path, glob.glob(text, recursive=True)))  # noqa: PTH207 - Path.glob refuses absolute patterns
        if not matches and "*" not in text and not path.exists():
            raise InputError(f"{text} does not exist", hint="check the path")
        if not matches:
            raise InputError(f"{text} names no image", hint="give image files, videos, folders of them or globs")
        found |= dict.fromkeys(matches)
    _refuse_equal_names(found)
    return list(found)


def predict_files(
    segmenter: Segmenter, inputs: Iterable[Path], out: Path | Job, advance: Callable[[int], None] | None = None
) -> tuple[list[Predicted], list[InputError]]:
    """Segment each file. What is done is skipped; a broken file is reported and the rest goes on.

    `advance` is called with the number of frames that were just finished.
    """
    job = out if isinstance(out, Job) else Job(out)
    tick = advance or (lambda _: None)
    redo = job.force or not _stamped(segmenter, job.out)
    done, broken = [], []
    for answer in _answers(segmenter, list(inputs), job, redo, tick):
        if isinstance(answer, InputError):
            broken.append(answer)
            _log.error("%s", answer)
        else:
            done.append(answer)
    if skipped := sum(answer.skipped for answer in done):
        _log.info("%d of %d were done before", skipped, len(done))
    return done, broken


def _answers(
    segmenter: Segmenter, inputs: list[Path], job: Job, redo: bool, tick: Callable[[int], None]
) -> Iterator[Predicted | InputError]:
    """Images several at a time, then videos, which overlap their own frames."""

    def image(path: Path) -> Predicted | InputError:
        try:
            return _predict_image(segmenter, path, job, redo)
        except InputError as error:
            return _about(path, error)

    videos = [path for path in inputs if path.suffix.lower() in VIDEO_SUFFIXES]
    for answer in ordered(image, [path for path in inputs if path not in videos], _WORKERS):
        tick(1)
        yield answer
    for path in videos:
        target = Predicted(path, job.out / "masks" / path.stem, job.out / "videos" / f"{path.stem}.mp4")
        if not redo and _is_newer(target.overlay, path):
            tick(count_frames(path))
            yield Predicted(path, target.mask, target.overlay, 0, skipped=True)
            continue
        try:
            frames = predict_video(segmenter, path, target.mask, target.overlay, tick)
            yield Predicted(path, target.mask, target.overlay, frames)
        except InputError as error:
            yield _about(path, error)


def _predict_image(segmenter: Segmenter, path: Path, job: Job, redo: bool) -> Predicted:
    """The mask is written last: with it the image is done."""
    name = f"{path.stem}.png"
    mask_file, overlay, colours = (job.out / folder / name for folder in ("masks", "overlays", "colours"))
    wanted = [mask_file, *[overlay] * job.overlay, *[colours] * job.colour]
    if not redo and all(_is_newer(file, path) for file in wanted):
        return Predicted(path, mask_file, overlay, skipped=True)
    frame = read_image(path)
    mask = _segment(segmenter, frame, job.tiled)
    if job.overlay:
        shown = draw.displayable(frame, segmenter.contract.value_range)
        write_image(overlay, draw.overlay(shown, mask, segmenter.palette))
    if job.colour:
        write_image(colours, draw.colourise(mask, segmenter.palette))
    write_image(mask_file, mask)
    return Predicted(path, mask_file, overlay)


def _segment(segmenter: Segmenter, frame: NDArray[Any], tiled: bool) -> NDArray[Any]:
    too_large = frame.shape[0] * frame.shape[1] > segmenter.max_pixels
    return segmenter.tiled(frame) if tiled or too_large else segmenter(frame)


def _stamped(segmenter: Segmenter, out: Path) -> bool:
    """Whether what lies in the folder was made by this artifact; from now on it is."""
    stamp = json.dumps({"artifact_sha256": segmenter.artifact_sha256}).encode()
    path = out / STAMP
    with explained_reads(path):
        if path.is_file() and path.read_bytes() == stamp:
            return True
    with explained_refusals(str(out)):
        out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, stamp)
    return False


def _is_newer(file: Path, source: Path) -> bool:
    return file.is_file() and file.stat().st_mtime_ns >= source.stat().st_mtime_ns


def _about(path: Path, error: InputError) -> InputError:
    """The error with its file's name."""
    message = error.message if str(path) in error.message else f"{path}: {error.message}"
    return InputError(message, hint=error.hint)


def _refuse_equal_names(paths: Iterable[Path]) -> None:
    """Two inputs of one name would write to one mask."""
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in seen:
            raise InputError(
                f"{seen[path.stem]} and {path} would both write {path.stem}", hint="predict them into two folders"
            )
        seen[path.stem] = path
