"""The compiled kernels: numpy's bits whatever the shapes, nothing done that does not fit, and numpy without them.

`compiled` is the library that is installed, or one that is compiled here. Where neither can be had those tests are
skipped, which leaves nothing open: then numpy does everything, which is what all other tests hold.
"""

import ast
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segpipe.contract.schema import Contract, Placement
from segpipe.doctor import examine
from segpipe.runtime import postprocess as after
from segpipe.runtime import preprocess as before
from segpipe.runtime.compiled.chosen import LIBRARY, SOURCE, Kernels, choose, kernels
from segpipe.runtime.compiled.frames import FrameKernels, Sampled
from segpipe.runtime.compiled.masks import MaskKernels
from segpipe.runtime.compiled.proof import FRAMES, MASKS, are_opencvs, cases
from segpipe.runtime.geometry import axes
from segpipe.runtime.sampling import taps
from tests.children import ROOT
from tests.test_runtime_large_frames import KINDS, frame_of, kind_of

NUMPY = Kernels(None, None, "numpy alone")
VALUES = ["random", "few", "strange", "close"]


@cache
def setups_options() -> list[str]:
    """What setup.py compiles with, read there: to import it would build."""
    tree = ast.walk(ast.parse((ROOT / "setup.py").read_text()))
    (options,) = (part.value for part in tree if isinstance(part, ast.keyword) and part.arg == "extra_compile_args")
    return [*map(str, ast.literal_eval(options))]


def build(source: Path, target: Path) -> Path:
    """As setup.py does it; the test is skipped where there is no compiler."""
    compiler = shutil.which("cc") or pytest.skip("no C compiler, and no library that was built: numpy does everything")
    made_from = hashlib.sha256(source.read_bytes()).hexdigest()
    options = [*setups_options(), "-shared", "-fPIC", f'-DPIXELS_SOURCE="{made_from}"']
    subprocess.run([compiler, *options, str(source), "-o", str(target)], check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return LIBRARY if kernels().masks else build(SOURCE, tmp_path_factory.mktemp("built") / "pixels.so")


@pytest.fixture(scope="module")
def compiled(library: Path) -> Kernels:
    return choose(library, SOURCE)


@pytest.fixture(scope="module")
def masks(compiled: Kernels) -> MaskKernels:
    assert compiled.masks is not None, compiled.detail
    return compiled.masks


@pytest.fixture(scope="module")
def frames(compiled: Kernels) -> FrameKernels:
    return compiled.frames or pytest.skip(compiled.detail)


@contextmanager
def by(chosen: Kernels) -> Iterator[None]:
    """Both halves of the runtime with these kernels."""
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):  # numpy warns of what is no number
        for module in (before, after):
            patch.setattr(module, "kernels", lambda: chosen)
        yield


def scores_of(kind: str, shape: tuple[int, int, int], seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    if kind == "few":
        return rng.integers(0, 3, shape).astype(np.float32)
    scores = rng.standard_normal(shape).astype(np.float32)
    if kind == "strange":
        odd = rng.choice(np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1e-42, 3e38], np.float32), shape)
        scores = np.where(rng.random(shape) < 0.2, odd, scores)
    if kind == "close":  # leads of the last bits: who wins depends on every rounding
        scores = 3 + np.float32(2**-21) * rng.integers(0, 5, shape).astype(np.float32)
    return scores


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    """Frames smaller and larger than the scores, whole or in a letterbox."""
    sides = st.one_of(st.integers(1, 60), st.integers(80, 300))
    source = draw(st.tuples(sides, sides))
    offset = draw(st.sampled_from([(0, 0), (3, 0), (0, 5)]))
    return Placement(source, (20, 20), (20 - 2 * offset[0], 20 - 2 * offset[1]), offset)


@settings(deadline=None, max_examples=100)
@given(
    placement=placements(),
    shape=st.tuples(st.sampled_from([1, 2, 3, 5, 20, 256]), st.integers(1, 6), st.integers(1, 6)),
    kind=st.sampled_from(VALUES),
    seed=st.integers(0, 999),
)
@example(Placement((20, 20), (20, 20), (20, 20), (0, 0)), (3, 20, 20), "strange", 0)
def test_masks_are_numpys(
    masks: MaskKernels, placement: Placement, shape: tuple[int, int, int], kind: str, seed: int
) -> None:
    scores = scores_of(kind, shape, seed)
    sides = axes(placement, *shape[1:])

    with by(NUMPY):
        expected = after.blended_argmax(scores, *sides)
    with by(Kernels(masks, None, "")):
        found = after.blended_argmax(scores, *sides)

    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize(
    ("shape", "frame"), [((11, 96, 120), (1080, 1920)), ((19, 64, 128), (512, 1024)), ((2, 90, 160), (360, 640))]
)
def test_large_masks_are_numpys_too(
    masks: MaskKernels, shape: tuple[int, int, int], frame: tuple[int, int], kind: str
) -> None:
    scores = scores_of(kind, shape, 0)
    sides = axes(Placement(frame, frame, frame, (0, 0)), *shape[1:])

    found = masks.mask(scores, *sides)

    with by(NUMPY):
        np.testing.assert_array_equal(found, after.blended_argmax(scores, *sides))


def as_it_may_lie(frame: NDArray[Any], kind: str) -> NDArray[Any]:
    """The same shape, another way through memory."""
    if kind == "turned":
        return np.ascontiguousarray(frame[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    if kind == "planes":
        return np.ascontiguousarray(frame.transpose(2, 0, 1)).transpose(1, 2, 0)
    if kind == "part":
        return np.repeat(np.repeat(frame, 2, 0), 3, 1)[::2, ::3]
    return np.broadcast_to(frame[:1], frame.shape) if kind == "one row" else frame


@settings(deadline=None, max_examples=100)
@given(
    network=st.tuples(st.integers(6, 40), st.integers(6, 40)),
    shrink=st.tuples(*[st.one_of(st.floats(0.9, 12), st.sampled_from([1, 2, 2.8125, 4, 6.4]))] * 2),
    fit=st.sampled_from(["stretch", "letterbox"]),
    kind=st.tuples(st.sampled_from(KINDS), st.sampled_from(["", "turned", "planes", "part", "one row"])),
)
@example((32, 600), (2.3, 1.7), "stretch", (KINDS[0], ""))
def test_tensors_are_numpys(
    compiled: Kernels, network: tuple[int, int], shrink: tuple[float, float], fit: str, kind: tuple[Contract, str]
) -> None:
    contract = kind[0].model_copy(update={"fit": fit, "network_size": network})
    size = [max(round(side * times), 1) for side, times in zip(network, shrink, strict=True)]
    frame = as_it_may_lie(frame_of(contract, *size), kind[1])
    placement = contract.place(*frame.shape[:2])

    with by(NUMPY):
        expected = before.preprocess(frame, contract, placement)
    with by(compiled):
        found = before.preprocess(frame, contract, placement)

    np.testing.assert_array_equal(found, expected)


class Watched(FrameKernels):
    """Others, and what became of each frame."""

    def __init__(self, frames: FrameKernels) -> None:
        self.frames, self.done = frames, list[bool]()

    def fill(self, *arguments: Any) -> bool:
        self.done.append(self.frames.fill(*arguments))
        return self.done[-1]


def test_frames_that_shrink_are_compiled_where_opencv_resizes_by_ipp(frames: FrameKernels) -> None:
    contract, watched = kind_of(), Watched(frames)

    with by(Kernels(None, watched, "")):
        before.preprocess(frame_of(contract, 80, 100), contract, contract.place(80, 100))

    assert watched.done == [True]


@pytest.mark.parametrize("wrong", FRAMES, ids=str)
def test_frames_that_are_not_opencvs_in_one_number_of_one_size_are_not_used(
    frames: FrameKernels, wrong: tuple[tuple[int, int], tuple[int, int], int]
) -> None:
    class Other(Watched):
        def fill(self, planes: NDArray[Any], *arguments: Any) -> bool:
            done = super().fill(planes, *arguments)
            if planes.shape == (wrong[2], *wrong[1]):
                planes[-1, -1, -1] = np.nextafter(planes[-1, -1, -1], np.float32(9))
            return done

    assert are_opencvs(Watched(frames))
    assert not are_opencvs(Other(frames))


def test_what_the_kernels_do_not_do_is_left_to_numpy(masks: MaskKernels) -> None:
    plain = np.zeros((3, 4, 5), np.float32)
    rows, columns = axes(Placement((8, 9), (4, 5), (4, 5), (0, 0)), 4, 5)
    others: list[NDArray[Any]] = [
        plain.astype(np.float64),
        np.asfortranarray(plain),
        np.zeros((257, 4, 5), np.float32),
        plain[:, :, ::-1],
    ]

    assert masks.mask(plain, rows, columns) is not None
    assert [masks.mask(other, rows, columns) for other in others] == [None] * 4
    assert masks.mask(plain, columns, rows) is None
    assert masks.labels(others[1]) is None


@pytest.mark.parametrize("at", [0, 3, -1])
@pytest.mark.parametrize("wrong", [-1, 1 << 40])
def test_a_table_that_would_lead_out_of_the_mask_is_refused(masks: MaskKernels, at: int, wrong: int) -> None:
    axes.cache_clear()
    rows, columns = axes(Placement((8, 9), (4, 5), (4, 5), (0, 0)), 4, 5)
    rows.parts.starts[at] = wrong

    found = masks.mask(np.zeros((3, 4, 5), np.float32), rows, columns)

    axes.cache_clear()
    assert found is None


def test_a_resize_that_would_read_outside_of_the_frame_reads_its_edge(frames: FrameKernels) -> None:
    frame = np.full((9, 10, 3), 7, np.uint8)
    contract = kind_of(mean=(0.0,) * 3, std=(1 / 255,) * 3, value_range=(0, 255))
    first = np.array([-(2**63), -5, 8, 9, 2**63 - 1])
    wild = Sampled(9, first, np.full(5, 0.5, np.float32)), Sampled(10, first, np.full(5, 0.5, np.float32))
    planes = np.zeros((3, 5, 5), np.float32)

    assert frames.fill(planes, frame, *wild, before._channels(contract))
    np.testing.assert_allclose(planes, 7)


def test_frames_and_planes_that_do_not_fit_are_refused(frames: FrameKernels) -> None:
    fill, channels = frames.fill, before._channels(kind_of())
    rows, columns = Sampled(16, *taps(16, 8)), Sampled(20, *taps(20, 10))
    frame, planes = np.zeros((16, 20, 3), np.uint8), np.zeros((3, 8, 10), np.float32)
    fixed = planes.copy()
    fixed.flags.writeable = False

    assert fill(planes, frame, rows, columns, channels)
    assert not fill(planes, frame[:15], rows, columns, channels)
    assert not fill(planes, frame.astype(np.int8), rows, columns, channels)
    assert not fill(planes[:, :7], frame, rows, columns, channels)
    assert not fill(planes[:, :, ::-1], frame, rows, columns, channels)
    assert not fill(planes[:2], frame[:, :, :2], rows, columns, channels)
    assert not fill(fixed, frame, rows, columns, channels)
    assert not fill(planes, frame, Sampled(16, rows.first[::2], rows.weights), columns, channels)


def test_a_library_that_is_not_what_stands_beside_it_is_not_used(compiled: Kernels, tmp_path: Path) -> None:
    assert compiled.masks
    source = tmp_path / "pixels.c"
    source.write_text(SOURCE.read_text().replace("-(value > *best)", "-(value >= *best)"))
    wrong = build(source, tmp_path / "wrong.so")  # the last wins ties
    (tmp_path / "text.so").write_text("no library")
    (tmp_path / "empty.c").write_text("int nothing;")

    assert choose(wrong, source).detail == "their masks are not numpy's"
    assert choose(wrong, SOURCE).detail == "built from another pixels.c"
    assert choose(tmp_path / "text.so", SOURCE).detail.startswith("not usable: ")
    assert choose(build(tmp_path / "empty.c", tmp_path / "empty.so"), SOURCE).detail.startswith("not usable: ")
    assert choose(tmp_path / "none.so", SOURCE).detail == "not built"


def test_a_library_that_is_cut_off_is_not_opened(library: Path, tmp_path: Path) -> None:
    """To open one of 8192 bytes ended the process by SIGBUS."""
    data = library.read_bytes()
    for size in (100, 8192, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.so").write_bytes(data[:size])

        assert choose(tmp_path / "cut.so", SOURCE).detail == "not usable: the library is cut off or none"


def test_where_opencv_resizes_in_another_way_frames_are_left_to_it(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segpipe.runtime.compiled.proof.is_exact", lambda *_: False)

    chosen = choose(library, SOURCE)

    assert chosen.masks is not None
    assert chosen.frames is None


def test_the_sum_that_a_library_is_held_to_is_numpys() -> None:
    total = 0
    with by(NUMPY):
        for scores, rows, columns in cases():
            total = zlib.crc32(after.blended_argmax(scores, rows, columns).tobytes(), total)

    assert total == MASKS


def test_doctor_tells_which_of_both_ways_is_taken() -> None:
    row = next(finding for finding in examine() if finding.name == "compiled kernels")

    assert row.present == (kernels().masks is not None)
    assert row.detail == kernels().detail
    if LIBRARY.is_file() and shutil.which("cc"):
        assert row.present, f"{row.detail}: make .venv/.installed"
    assert row.present or "compiler" in row.hint


@pytest.mark.parametrize("compiler", [pytest.param("cc", marks=pytest.mark.soak), "/bin/false"])
def test_an_installation_goes_on_without_a_compiler_and_its_wheel_says_what_it_fits(
    compiler: str, tmp_path: Path
) -> None:
    pytest.importorskip("setuptools", "77", reason="setuptools is not installed")
    if compiler == "cc" and not shutil.which("cc"):
        compiler = "/nowhere/cc"
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(SOURCE.parent, tmp_path / SOURCE.parent.relative_to(ROOT), ignore=shutil.ignore_patterns("*.so"))
    (tmp_path / "segpipe/__init__.py").touch()
    (tmp_path / "segpipe/runtime/__init__.py").touch()
    environment = {**os.environ, "CC": compiler, "LDSHARED": f"{compiler} -shared"}

    command = [sys.executable, "setup.py", "--quiet", "bdist_wheel"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    built = "segpipe/runtime/compiled/pixels.abi3.so" in names
    assert "segpipe/runtime/compiled/pixels.c" in names
    assert built == (compiler == "cc")
    assert wheel.name.endswith("-py3-none-any.whl") != built
