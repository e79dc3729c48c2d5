"""What names a live source: a stream of the network or a camera. Its password is for FFmpeg and for nobody else."""

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from segpipe.errors import InputError

SCHEMES = ("rtsp", "rtsps", "tcp", "udp")
"""What is read: RTSP, and MPEG transport streams over TCP and UDP."""
_CAMERA = re.compile(r"/dev/video\d+", re.ASCII)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PLAIN_PATH = re.compile(r"/[\w./-]{1,80}", re.ASCII)
_LONGEST_NAME = 100
_NO_NAME = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True)
class Address:
    """Where a live source is."""

    whole: str = field(repr=False)
    """What FFmpeg is given: it may hold a password, so it is neither shown nor written anywhere."""
    shown: str
    scheme: str
    """`camera` for a device."""

    @property
    def name(self) -> str:
        """As a part of a file's name."""
        plain = _NO_NAME.sub("-", self.shown.partition("://")[2] or self.shown).strip("-")
        return plain[:_LONGEST_NAME].strip("-") or "stream"


def is_live(text: str) -> bool:
    """Whether this names a stream or a camera, and no file."""
    return bool(_CAMERA.fullmatch(text) or _URL.match(text))


def live_address(text: str) -> Address:
    """What a person typed, or an InputError that repeats no password."""
    if _CAMERA.fullmatch(text):
        return Address(text, text, "camera")
    scheme = text.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise InputError(f"{scheme}:// is not read", hint=f"give one of: {', '.join(SCHEMES)}, or /dev/video0")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _unreadable(scheme) from None
    if not text.isprintable() or " " in text or not (host or scheme == "udp"):
        raise _unreadable(scheme)
    host = f"[{host}]" if ":" in host else host
    place = host if port is None else f"{host}:{port}"
    return Address(text, f"{scheme}://{place}{_path_to_show(parts.path)}", scheme)


def _path_to_show(path: str) -> str:
    """Some cameras take the password in the path: what is more than names and slashes is left out."""
    return path if _PLAIN_PATH.fullmatch(path) else ""


def _unreadable(scheme: str) -> InputError:
    return InputError(
        f"the {scheme} address cannot be read", hint=f"write {scheme}://HOST:PORT/PATH, what is special in it as %40"
    )
