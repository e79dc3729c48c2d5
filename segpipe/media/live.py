"""Live sources by PyAV: frames with their times. Owns what FFmpeg may open and how long it may keep us waiting."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from segpipe.errors import InputError
from segpipe.media.address import Address
from segpipe.media.images import require_pixels

_OPEN_S, _READ_S = 10.0, 5.0
_STALL_S = 10.0
"""Data without a frame for so long is no video."""
_FASTEST_FPS = 240  # what says more counts in other units
_LOOK_US = "2000000"  # how long FFmpeg looks for what is in a stream before its first frame comes
_TRANSPORT = "mpegts"
# A server's answer may name further addresses: FFmpeg opens none outside these protocols, and no file.
_OPTIONS = {
    "rtsp": {"rtsp_flags": "prefer_tcp", "protocol_whitelist": "rtsp,rtp,tcp,udp"},
    "rtsps": {"rtsp_flags": "prefer_tcp", "protocol_whitelist": "rtsp,rtsps,rtp,srtp,tcp,tls,udp,crypto"},
    "tcp": {"protocol_whitelist": "tcp"},
    "udp": {"protocol_whitelist": "udp", "overrun_nonfatal": "1"},
    "camera": {},
}
_FORMATS = {"rtsp": "rtsp", "rtsps": "rtsp", "tcp": _TRANSPORT, "udp": _TRANSPORT, "camera": "v4l2"}


class BrokenOffError(InputError):
    """A live source that cannot be opened, or that ended other than by its own end."""


@dataclass(frozen=True)
class LiveFrame:
    """A decoded frame."""

    pixels: NDArray[np.uint8]
    """HxWx3, RGB."""
    time_s: float | None
    """The stream's own time stamp; none where it has none."""
    arrived: datetime
    arrived_s: float
    """On the monotonic clock."""


class Connection:
    """One opening of a live source, used by one thread."""

    def __init__(self, address: Address, max_pixels: int) -> None:
        self._shown, self._max_pixels = address.shown, max_pixels
        options = {"analyzeduration": _LOOK_US} | _OPTIONS[address.scheme]
        try:
            self._container = av.open(
                address.whole, format=_FORMATS[address.scheme], options=options, timeout=(_OPEN_S, _READ_S)
            )
        except (FFmpegError, OSError, ValueError) as error:
            raise self._broken(error) from None
        if not self._container.streams.video:
            self._container.close()
            raise BrokenOffError(f"{self._shown} holds no video", hint="check its address with ffprobe")
        self._stream = self._container.streams.video[0]
        context = self._stream.codec_context
        try:
            require_pixels(f"a frame of {self._shown}", context.height, context.width, max_pixels)
        except InputError:
            self._container.close()
            raise
        context.options = {"max_pixels": str(max_pixels)}  # of what comes later

    @property
    def fps(self) -> float:
        """What the stream says; 0 where it says nothing that can be."""
        rate = float(self._stream.average_rate or 0)
        return rate if 1 <= rate <= _FASTEST_FPS else 0

    def frames(self) -> Iterator[LiveFrame]:
        """Until the stream ends; what is damaged on the way is left out."""
        last = time.monotonic()
        try:
            for packet in self._container.demux(self._stream):
                for frame in _decoded(packet):
                    last = time.monotonic()
                    require_pixels(f"a frame of {self._shown}", frame.height, frame.width, self._max_pixels)
                    yield LiveFrame(frame.to_ndarray(format="rgb24"), frame.time, datetime.now(UTC), last)
                if time.monotonic() - last > _STALL_S:
                    raise BrokenOffError(
                        f"{self._shown} sends data, and for {_STALL_S:g} s no frame", hint="look at it with ffplay"
                    )
        except InputError:
            raise
        except (FFmpegError, OSError, ValueError) as error:
            raise self._broken(error) from None

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *exception: object) -> None:
        self._container.close()

    def _broken(self, error: Exception) -> BrokenOffError:
        """FFmpeg's own text repeats the address with its password: only the reason is taken."""
        if isinstance(error, av.error.ExitError):
            reason = "no answer in time"
        elif isinstance(error, av.error.HTTPUnauthorizedError):
            reason = "it wants a user and a password"
        else:
            reason = getattr(error, "strerror", None) or type(error).__name__
        return BrokenOffError(
            f"{self._shown} broke off or cannot be opened: {reason}", hint="check that it runs and its address"
        )


def _decoded(packet: Any) -> list[Any]:
    """Its frames; none of a packet that was damaged on its way."""
    try:
        return list(packet.decode())
    except av.error.InvalidDataError:
        return []
