"""What is written of an image, a folder for each kind: PNG of pictures, COCO's JSON of things, each with its record."""

import posixpath
from pathlib import Path
from typing import Any

from segpipe.batch.items import Item
from segpipe.errors import InputError
from segpipe.media.images import decode_image, encode_png
from segpipe.predicting.done import Origin, json_in, proves, proves_json, record_of, record_of_json, seal, seal_json
from segpipe.predicting.job import THINGS


def name_of(folder: str, item: Item) -> str:
    """Where it goes."""
    name = f"{posixpath.splitext(item.picture)[0]}.json" if folder == THINGS else item.picture
    return f"{folder}/{name}"


def sealed(folder: str, name: str, content: Any, origin: Origin) -> bytes:
    """The bytes of a picture, or of a JSON object, with the record in them."""
    return seal_json(content, origin) if folder == THINGS else seal(encode_png(name, content), origin)


def is_proved(folder: str, data: bytes, origin: Origin) -> bool:
    """Whether these bytes are what was made of this origin, as it was written."""
    return proves_json(data, origin) if folder == THINGS else proves(data, origin)


def record_in_bytes(folder: str, data: bytes) -> dict[str, Any]:
    """Their record; an empty one where there is none."""
    return record_of_json(data) if folder == THINGS else record_of(data)


def content_of(folder: str, name: str, data: bytes) -> Any:
    """What was sealed."""
    if folder != THINGS:
        return decode_image(Path(name), data)[:, :, 0]
    if not (content := json_in(data)):
        raise InputError(f"{name} is no JSON of things", hint="delete it")
    return content
