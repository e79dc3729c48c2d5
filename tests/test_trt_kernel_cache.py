"""What TensorRT for RTX compiles is kept for the next process: by engine, GPU, driver and version."""

from pathlib import Path

import pytest

from segpipe.runtime.trt.kernel_cache import KernelCache, kernel_cache_file


class VendorCache:
    """TensorRT's IRuntimeCache, which only a machine with a GPU makes."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, blob: bytes) -> bool:
        """A damaged blob is refused."""
        good = blob.startswith(b"kernels")
        self.content = blob if good else b""
        return good

    def serialize(self) -> bytes:
        """What is known now."""
        return self.content


def test_what_was_compiled_is_there_in_the_next_process(tmp_path: Path) -> None:
    first, second = VendorCache(), VendorCache()
    kept = KernelCache(first, tmp_path / "rtx" / "a.cache")
    first.content = b"kernels of two shapes"
    kept.store()

    KernelCache(second, tmp_path / "rtx" / "a.cache")

    assert second.content == b"kernels of two shapes"


def test_what_is_known_already_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a.cache"
    path.write_bytes(b"kernels")
    before = path.stat().st_mtime_ns

    KernelCache(VendorCache(), path).store()

    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_a_damaged_file_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.cache"
    path.write_bytes(content)
    cache = VendorCache()
    kept = KernelCache(cache, path)
    cache.content = b"kernels"

    kept.store()

    assert path.read_bytes() == b"kernels"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "rtx").write_text("a file where the folder would be")
    cache = VendorCache()
    kept = KernelCache(cache, tmp_path / "rtx" / "a.cache")
    cache.content = b"kernels"

    kept.store()

    assert (tmp_path / "rtx").is_file()


def test_every_engine_version_gpu_and_driver_has_a_file_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plain = (b"plan", "1.7.1", "NVIDIA H200", 13000)
    others = [(b"other", *plain[1:]), (b"plan", "1.8", *plain[2:]), (*plain[:2], "NVIDIA L4", 13000)]

    files = {kernel_cache_file(*made) for made in [plain, *others, (*plain[:3], 13010)]}

    assert len(files) == 5
    assert all(file.is_relative_to(tmp_path) for file in files)
