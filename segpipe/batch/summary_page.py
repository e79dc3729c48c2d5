"""A version's summary as a page: images over time, shares of classes, slowest and broken ones, a random sample."""

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.batch.index import at_one_moment
from segpipe.batch.status import versions_in
from segpipe.batch.stores import Store, open_store, plain
from segpipe.batch.summary import MOST_SHOWN, Summary, summarise
from segpipe.batch.version import FILE_NAME, Noted, noted
from segpipe.draw import colourise
from segpipe.errors import InputError
from segpipe.id_maps import classes_in
from segpipe.media.files import read_regular
from segpipe.media.images import decode_image
from segpipe.pages import MADE, page, table
from segpipe.predicting.done import record_of
from segpipe.rundir.storage import sha256_of_bytes

PAGE = "summary.html"
_SIDE_PX = 240
_MOST_BARS = 48
_MOST_PIXELS = 1 << 26
_CHART = (640, 160)


def write_summaries(address: str, seed: int, count: int) -> list[str]:
    """A page in the folder of each version, which leads to the others; where they are."""
    names = versions_in(address)
    return [_written(address, name, names, seed, count) for name in names]


def _written(address: str, name: str, names: Sequence[str], seed: int, count: int) -> str:
    store = open_store(f"{plain(address)}/{name}")
    _require_ours(store)
    made = noted(store)
    found = at_one_moment(store, lambda files: summarise(files, seed, count))
    if found.pixels and len(found.of_class) != len(made.classes):
        raise InputError(
            f"{store.address(FILE_NAME)} has {len(made.classes)} classes, the index {len(found.of_class)}",
            hint="delete it, and give the batch again",
        )
    links = [(other, "" if other == name else f"../{other}/{PAGE}") for other in names]
    about = f"{found.done} images done, {found.broken} broken; backend {made.backend}"
    sections = [
        ("speed", "Images over time", _speed(found)),
        ("classes", "Shares of the classes", _classes(found, made.classes, made.palette)),
        ("slowest", "Slowest images", _slowest(found)),
        ("broken", "Broken images", _broken(found)),
        ("sample", "A random sample", _sheet(store, found, made, seed)),
    ]
    store.write(PAGE, page(f"Batch {name}", about, links, sections).encode())
    return store.address(PAGE)


def _require_ours(store: Store) -> None:
    """A page of somebody's, or a link, is not replaced."""
    if store.is_link(PAGE) or (store.entry(PAGE) and MADE.encode() not in store.read(PAGE).data):
        raise InputError(f"{store.address(PAGE)} is no page of segpipe's, and would be replaced", hint="move it")


def _speed(found: Summary) -> str:
    """Bars, each of as many whole seconds or minutes; pauses between commands are empty ones."""
    if not found.moments:
        return "<p>Nothing was segmented yet.</p>"
    first, last = min(found.moments), max(found.moments)
    width = (last - first) // _MOST_BARS + 1
    bars = Counter[int]()
    for moment, images in found.moments.items():
        bars[(moment - first) // width] += images
    most, count = max(bars.values()), (last - first) // width + 1
    step, height = _CHART[0] / count, _CHART[1]
    drawn = "".join(
        f'<rect x="{n * step:.1f}" y="{height * (1 - bars[n] / most):.1f}" width="{max(step - 1, 0.5):.1f}" '
        f'height="{height * bars[n] / most:.1f}" fill="var(--s1)"/>'
        for n in range(count)
    )
    unit_s, form, unit = (1, "%Y-%m-%d %H:%M:%S", "s") if found.unit_s == 1 else (60, "%Y-%m-%d %H:%M", "min")
    begin, end = (datetime.fromtimestamp(moment * unit_s, UTC).strftime(form) for moment in (first, last))
    speed = f", {most / width / unit_s:.2f} images/s" if count > 1 else ""
    text = f"{begin} to {end} UTC, {width} {unit} a bar; the tallest is {most} images{speed}."
    return (
        f'<figure><svg viewBox="0 0 {_CHART[0]} {height}" role="img" aria-label="{escape(text)}">{drawn}</svg>'
        f"<figcaption>{escape(text)}</figcaption></figure>"
    )


def _classes(found: Summary, classes: Sequence[str], palette: Sequence[Any]) -> str:
    rows = [[name, f"{found.share(n):.3%}"] for n, name in enumerate(classes)] if found.pixels else []
    legend = "".join(
        f'<li><span style="background: rgb({int(r)} {int(g)} {int(b)})"></span>{escape(name)}</li>'
        for name, (r, g, b) in zip(classes, palette, strict=False)
    )
    return table("Shares of the classes", ["class", "of all pixels"], rows, 1) + f'<ul class="legend">{legend}</ul>'


def _slowest(found: Summary) -> str:
    rows = [[name, f"{ms:.1f}"] for ms, name in found.slowest]
    return table("Slowest images", ["image", "ms"], rows, 1) if rows else "<p>None was timed.</p>"


def _broken(found: Summary) -> str:
    if not found.broken:
        return "<p>None.</p>"
    more = found.broken - len(found.reasons)
    said = f"<p>And {more} more: segpipe batch status --json has them all.</p>" if more else ""
    return table("Broken images", ["image", "why"], [*map(list, found.reasons.items())][:MOST_SHOWN]) + said


def _sheet(store: Store, found: Summary, made: Noted, seed: int) -> str:
    rows = [*_pairs(store, found, made)]
    if not rows:
        return "<p>No mask to show.</p>"
    note = f"{len(rows)} images, drawn with seed {seed}: the image where it still is as it was, and its mask."
    return f'<p class="muted">{note}</p><div class="flow">{"".join(rows)}</div>'


def _pairs(store: Store, found: Summary, made: Noted) -> Iterator[str]:
    for _, mask, name in found.sample:
        try:
            data = store.read(mask).data
            labels = decode_image(Path(mask), data)[:, :, 0]
        except InputError:
            continue  # it went since it was written
        pictures = [("mask", colourise(classes_in(labels) if made.of_things else labels, made.palette))]
        if (frame := _frame(record_of(data))) is not None:
            pictures.insert(0, ("image", frame))
        shown = "".join(_figure(title, pixels, name) for title, pixels in pictures)
        yield f'<figure class="row"><figcaption>{escape(name)}</figcaption><div>{shown}</div></figure>'


def _frame(record: dict[str, Any]) -> NDArray[np.uint8] | None:
    """The image that a mask was made of, where this machine has it."""
    source = record.get("source", {})
    try:
        data = read_regular(Path(str(source.get("path", ""))))
        frame = decode_image(Path("image"), data, _MOST_PIXELS)
    except (InputError, ValueError):
        return None
    is_same = sha256_of_bytes(data) == source.get("sha256")
    return frame if is_same and frame.dtype == np.uint8 and frame.shape[2] == 3 else None


def _figure(title: str, rgb: NDArray[np.uint8], name: str) -> str:
    scale = min(_SIDE_PX / max(rgb.shape[:2]), 1)
    size = max(round(rgb.shape[1] * scale), 1), max(round(rgb.shape[0] * scale), 1)
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_NEAREST if title == "mask" else cv2.INTER_AREA)
    data = base64.b64encode(cv2.imencode(".png", small[:, :, ::-1])[1].tobytes()).decode()
    alt = escape(f"{title}: {name}", quote=True)
    return (
        f'<figure><img src="data:image/png;base64,{data}" width="{size[0]}" height="{size[1]}" alt="{alt}">'
        f"<figcaption>{title}</figcaption></figure>"
    )
