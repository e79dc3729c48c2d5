"""H.264 in MP4 by PyAV: what browsers play, and begin to play before all of it has come."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from segpipe.errors import InputError, StorageError

_ENCODER: Final = "libx264"
_OPTIONS = {"preset": "veryfast", "crf": "20"}
_MUXER = {"movflags": "+faststart"}  # the index first
_FORMAT = "yuv420p"  # browsers decode no other one; two by two pixels share their colour, so sides are even
_BT709 = 1  # of colours, as H.264 numbers it; untold, players guess by the picture's size
_FINEST = 65535  # of a rate's denominator
_FASTEST_FPS, _SOME_FPS = 100_000.0, 25.0  # what a source may say that is damaged is anything


def is_built_in() -> bool:
    """Whether this PyAV brings the encoder: builds without GPL parts do not."""
    return _ENCODER in av.codecs_available


class H264File:
    """A file that is written picture by picture. `name` is what it is to be called in the end."""

    def __init__(self, path: Path, name: Path, fps: float, size: tuple[int, int]) -> None:
        self._name, self._count = name, 0
        height, width = size
        self._container = av.open(str(path.absolute()), "w", format="mp4", options=_MUXER)
        self._stream = self._container.add_stream(_ENCODER, rate=_rate(fps), options=_OPTIONS)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height + height % 2, width + width % 2, _FORMAT
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.MPEG
        try:
            with self._explained():
                self._container.start_encoding()
        except StorageError as error:
            self.abandon()
            if isinstance(error.__cause__, OSError):
                raise
            raise InputError(
                f"{name} would have pictures of {height}x{width}, which {_ENCODER} does not write",
                hint="leave the video out with --no-overlay",
            ) from None

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Append an RGB picture."""
        height, width = picture.shape[:2]
        if height % 2 or width % 2:
            picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame = frame.reformat(format=_FORMAT, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
        frame.pts = self._count
        self._count += 1
        with self._explained():
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """No picture comes any more: write what the encoder holds back, and the index."""
        with self._explained():
            self._container.mux(self._stream.encode(None))
            self._container.close()

    def abandon(self) -> None:
        """Close what nobody wants any more."""
        try:
            self._container.close()
        except (FFmpegError, OSError):
            return

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (FFmpegError, OSError) as error:
            raise StorageError(
                f"cannot write {self._name}: {error.strerror or type(error).__name__}",
                hint="free some space or raise the file size limit (ulimit -f), and run the same command again",
            ) from error


def _rate(fps: float) -> Fraction:
    usable = min(fps, _FASTEST_FPS) if fps > 1 / _FINEST else _SOME_FPS
    return Fraction(usable).limit_denominator(_FINEST)
