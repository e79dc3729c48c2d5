"""The picture in a request: raw bytes, or the one file of a form. Nothing of it touches a disk."""

import asyncio
import sys
from collections.abc import AsyncGenerator

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

_RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded")
"""Beside image/*: the last is what `curl --data-binary` says when it is told nothing."""
_FORM = "multipart/form-data"
_PIECE_BYTES = 1 << 20  # parsed in some milliseconds
_WANTED = "send the bytes of one picture as image/*, application/octet-stream, or as the file of multipart/form-data"


async def picture_of(request: Request) -> bytes:
    """The encoded picture; 400 where there is none, 415 for a body of another kind."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == _FORM:
        picture = await _of_form(request)
    elif media_type in _RAW or media_type.startswith("image/"):
        picture = await request.body()
    else:
        raise HTTPException(415, f"a body of type {media_type[:80]!r} is not taken. {_WANTED}")
    if not picture:
        raise HTTPException(400, f"the body is empty. {_WANTED}")
    return picture


class _InMemory(MultiPartParser):
    spool_max_size = sys.maxsize  # the guard has bounded the body: a frame in a temporary file would be a stored one


async def _pieces(request: Request) -> AsyncGenerator[bytes, None]:
    """Others get their turn while a large form is read."""
    body = memoryview(await request.body())
    for start in range(0, len(body), _PIECE_BYTES):
        yield bytes(body[start : start + _PIECE_BYTES])
        await asyncio.sleep(0)


async def _of_form(request: Request) -> bytes:
    try:
        form = await _InMemory(request.headers, _pieces(request), max_files=1, max_fields=0).parse()
    except (MultiPartException, UnicodeError) as error:
        raise HTTPException(400, f"the form cannot be read: {str(error).rstrip('.')}. {_WANTED}") from None
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if not files:
        raise HTTPException(400, f"the form holds no whole file. {_WANTED}")
    try:
        return await files[0].read()
    finally:
        await form.close()
