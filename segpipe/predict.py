"""Files in, masks and overlays out: what `segpipe predict` does."""

import glob
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segpipe import draw
from segpipe.errors import InputError
from segpipe.images import SUFFIXES, read_image, write_image
from segpipe.runtime.segmenter import Segmenter

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predicted:
    """The pictures written for one input."""

    image: Path
    mask: Path
    overlay: Path


def find_images(inputs: Sequence[str]) -> list[Path]:
    """Files, folders and globs to image files, in order and once each."""
    found: dict[Path, None] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            matches = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        else:
            matches = [path] if path.exists() else sorted(map(Path, glob.glob(text, recursive=True)))  # noqa: PTH207 - Path.glob refuses absolute patterns
        if not matches:
            raise InputError(f"{text} names no image", hint="give image files, folders of images or globs")
        found |= dict.fromkeys(matches)
    _refuse_equal_names(found)
    return list(found)


def predict_files(segmenter: Segmenter, images: Iterable[Path], out: Path) -> tuple[list[Predicted], list[InputError]]:
    """Segment each file to OUT/masks and OUT/overlays. A broken file is reported and the rest goes on."""
    done, broken = [], []
    for path in images:
        try:
            done.append(_predict_file(segmenter, path, out))
        except InputError as error:
            broken.append(error)
            _log.error("%s: %s", path, error)
    return done, broken


def _predict_file(segmenter: Segmenter, path: Path, out: Path) -> Predicted:
    frame = read_image(path)
    mask = segmenter(frame)
    shown = draw.displayable(frame, segmenter.contract.value_range)
    result = Predicted(path, out / "masks" / f"{path.stem}.png", out / "overlays" / f"{path.stem}.png")
    write_image(result.mask, mask)
    write_image(result.overlay, draw.overlay(shown, mask, segmenter.palette))
    return result


def _refuse_equal_names(paths: Iterable[Path]) -> None:
    """Two inputs of one name would write to one mask."""
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in seen:
            raise InputError(
                f"{seen[path.stem]} and {path} would both write {path.stem}.png", hint="predict them into two folders"
            )
        seen[path.stem] = path
