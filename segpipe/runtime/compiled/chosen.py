"""Which compiled kernels are used: those built from the source beside them that give numpy's bits, and OpenCV's."""

import ctypes
import hashlib
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from segpipe.runtime.compiled.frames import FrameKernels
from segpipe.runtime.compiled.masks import MaskKernels
from segpipe.runtime.compiled.proof import are_numpys, are_opencvs

SOURCE = Path(__file__).with_name("pixels.c")
LIBRARY = SOURCE.with_name("pixels.abi3.so")
_ELF = struct.Struct("<5s27xQQ6xHHHH")
"""Its magic number and class, and of the tables of segments and of sections: where they are, and sizes and counts."""


@dataclass(frozen=True)
class Kernels:
    """None stands for what numpy and OpenCV do, and `detail` for why."""

    masks: MaskKernels | None
    frames: FrameKernels | None
    detail: str


@cache
def kernels() -> Kernels:
    """Chosen once a process."""
    return choose(LIBRARY, SOURCE)


def choose(path: Path, source: Path) -> Kernels:
    """Open a library and hold it to its source, to numpy and to OpenCV."""
    if not path.is_file():
        return _none("not built")
    if not _is_whole(path.read_bytes()):
        return _none("not usable: the library is cut off or none")
    try:
        library = ctypes.CDLL(str(path))
        library.segpipe_source.restype = ctypes.c_char_p
        masks, both = MaskKernels(library), [FrameKernels(library, fused) for fused in (True, False)]
        if library.segpipe_source() != hashlib.sha256(source.read_bytes()).hexdigest().encode():
            return _none("built from another pixels.c")
    except (OSError, AttributeError) as error:
        return _none(f"not usable: {error}")
    if not are_numpys(masks):
        return _none("their masks are not numpy's")
    frames = next((some for some in both if are_opencvs(some)), None)
    return Kernels(masks, frames, "masks and frames" if frames else "masks; OpenCV resizes frames in a way of its own")


def _is_whole(library: bytes) -> bool:
    """Whether what the header of a 64-bit ELF file says is there: to open one that is cut off can end the process."""
    if len(library) < _ELF.size:
        return False
    magic, segments, sections, segment_size, segment_count, section_size, section_count = _ELF.unpack_from(library)
    ends = segments + segment_size * segment_count, sections + section_size * section_count
    return magic == b"\x7fELF\x02" and max(ends) <= len(library)


def _none(detail: str) -> Kernels:
    return Kernels(None, None, detail)
