"""`segpipe batch` before it segments, and a second driver where a store knows no locks."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import pytest

from segpipe import testing
from segpipe.batch import before, signs
from segpipe.batch.alone import alone
from segpipe.batch.before import require_places, warn_of_room
from segpipe.batch.items import WHOLE, Shard
from segpipe.batch.stores import GONE, Content, Entry, LocalStore
from segpipe.errors import InputError, StorageError
from segpipe.media.images import write_image
from tests.calling import call

pytest.importorskip("pyarrow")


class Bucket:
    """An object store in memory: no folders, no locks."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def address(self, name: str = "") -> str:
        return f"s3://bucket/{name}"

    def entries(self, folder: str = "") -> Iterator[Entry]:
        names = sorted(name for name in self.objects if name.startswith(folder))
        return (Entry(name, len(self.objects[name]), 0) for name in names)

    def folders(self) -> list[str]:
        return sorted({name.partition("/")[0] for name in self.objects if "/" in name})

    def entry(self, name: str) -> Entry | None:
        return Entry(name, len(self.objects[name]), 0) if name in self.objects else None

    def is_link(self, name: str) -> bool:
        return False

    def read(self, name: str, start: int = 0, size: int = -1) -> Content:
        if name not in self.objects:
            raise InputError(f"{name} does not exist")
        return Content(self.objects[name], GONE)

    def open(self, name: str) -> BinaryIO:
        raise NotImplementedError

    def write(self, name: str, data: bytes) -> None:
        self.objects[name] = data

    def local_file(self, name: str) -> AbstractContextManager[Path]:
        raise NotImplementedError

    def new_file(self, name: str) -> AbstractContextManager[Path]:
        raise NotImplementedError

    def remove(self, name: str) -> None:
        self.objects.pop(name, None)

    def sizes(self, folder: str) -> Callable[[str], int]:
        return lambda name: len(self.objects.get(name, b""))

    def sweep(self, folder: str) -> None:
        """Nothing is half written."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs change often; a look ends with the first change, however long it may take."""
    monkeypatch.setattr(signs, "_BEAT_S", 0.01)


def test_in_a_bucket_a_second_driver_is_refused_while_the_first_one_lives(quick: None) -> None:
    bucket = Bucket()

    with alone(bucket, Shard(1, 2)), alone(bucket, Shard(2, 2)):
        for other in (Shard(1, 2), Shard(1, 3), WHOLE):
            with (
                pytest.raises(InputError, match="is being filled by another segpipe, with shard"),
                alone(bucket, other),
            ):
                pass
    with alone(bucket, WHOLE):
        pass

    assert bucket.objects == {}


def test_in_a_bucket_what_a_killed_driver_left_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signs, "_LOOK_S", 0.0)
    bucket = Bucket()
    bucket.write("alive/1of1.json", b'{"driver": "of a killed one", "beat": 7}')

    with alone(bucket, WHOLE):
        assert b"of a killed one" not in bucket.objects["alive/1of1.json"]

    assert bucket.objects == {}


def test_a_source_that_is_not_there_is_said_before_anything_is_opened(tmp_path: Path) -> None:
    code, _, err = call("batch", tmp_path / "no-run", tmp_path / "gone", "-o", tmp_path / "out")

    assert code == 1
    assert f"{tmp_path}/gone does not exist" in err
    assert not (tmp_path / "out").exists()


def test_a_target_that_may_not_be_written_to_is_said_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "closed")  # root may write anywhere

    with pytest.raises(StorageError, match="closed cannot be written to"):
        require_places(str(tmp_path), str(tmp_path / "closed/deep/out"))


def test_a_full_disk_is_said_before_anything_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(before, "_LEAST_BYTES", 1 << 80)

    with pytest.raises(StorageError, match=f"the disk of {tmp_path} is full"):
        require_places(str(tmp_path), str(tmp_path / "out"))


def test_what_nodes_have_to_see_are_the_images_and_where_masks_go_but_no_list(tmp_path: Path) -> None:
    for name in ("in", "shared"):
        (tmp_path / name).mkdir()
    (tmp_path / "list.csv").write_text("path\n")

    assert require_places(str(tmp_path / "in"), str(tmp_path / "shared/new/out")) == (
        str(tmp_path / "in"),
        str(tmp_path / "shared"),
    )
    assert require_places(str(tmp_path / "list.csv"), str(tmp_path)) == (str(tmp_path),)


def test_masks_that_will_not_fit_are_told_of_and_those_that_do_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_room(LocalStore(tmp_path), written_bytes=1 << 60, written=1, left=1 << 20)
    warn_of_room(LocalStore(tmp_path), written_bytes=10, written=1, left=1)

    (told,) = caplog.messages
    assert told.startswith("1048576 masks to come take about")


def test_after_the_first_fifty_images_it_is_told_how_long_the_rest_takes(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(52):
        write_image(tmp_path / "in" / f"{n}.png", testing.make_frame(16, 16, n)[0])

    code, _, err = call("batch", run, tmp_path / "in", "-o", tmp_path / "out")

    assert code == 0
    assert "50 of 52 images are done" in caplog.text + err
