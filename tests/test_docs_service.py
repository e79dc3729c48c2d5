"""The documented web service: what it does with a body that is no image."""

import ast
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segpipe import testing

PAGE = Path(__file__).parents[1] / "docs/tutorials/service.md"
_CLAIM = b"IHDR" + struct.pack(">IIBBBBB", 1 << 24, 1 << 24, 8, 2, 0, 0, 0)
HUGE = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + _CLAIM + struct.pack(">I", zlib.crc32(_CLAIM))


@pytest.fixture
def decode() -> Callable[[bytes], Any]:
    """The service's function, as the page has it."""
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "FastAPI" in b]
    (function,) = [n for n in ast.parse(block).body if isinstance(n, ast.FunctionDef) and n.name == "decode"]
    names: dict[str, Any] = {"cv2": cv2, "np": np}
    exec(compile(ast.Module([function], []), str(PAGE), "exec"), names)
    return names["decode"]


@pytest.mark.parametrize("body", [b"", b"no picture", HUGE], ids=["empty", "text", "huge"])
def test_the_service_finds_no_image_in_what_is_none(decode: Callable[[bytes], Any], body: bytes) -> None:
    assert decode(body) is None


def test_the_service_gets_rgb(decode: Callable[[bytes], Any]) -> None:
    frame = testing.make_frame(40, 60)[0]

    found = decode(cv2.imencode(".png", frame[:, :, ::-1])[1].tobytes())

    np.testing.assert_array_equal(found, frame)
