"""The index of very many images: what its rows say last, in few files and in little memory."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from segpipe.batch import index
from segpipe.batch.index import Files, GoneError, Log, Row, at_one_moment
from segpipe.batch.items import Item, once_each
from segpipe.batch.latest import Latest
from segpipe.batch.stores import GONE, Entry, LocalStore
from segpipe.errors import InputError

NAMES = ("a.png", "b/ü.png", "line\nbreak.png", "bytes\udcff.png", "e.png")


def rows(rng: np.random.Generator, count: int) -> list[Row]:
    """Of a few names, some broken, with sizes that come again."""
    made = []
    for _ in range(count):
        error = "torn" if rng.random() < 0.3 else ""
        size, stamp, mask_bytes = (int(number) for number in rng.integers(0, 3, 3))
        made.append(Row(str(rng.choice(NAMES)), size, stamp, error=error, mask_bytes=mask_bytes))
    return made


@pytest.mark.parametrize("seed", range(8))
def test_arrays_say_of_each_name_what_its_last_row_says(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    last: dict[str, Row] = {}
    for session in range(1, 4):
        log = Log(LocalStore(tmp_path), "1of1", session)
        for row in rows(rng, 7):
            log.add(row)
            last[row.path] = row
        log.close()

    files = Files.of(LocalStore(tmp_path))
    latest = Latest.of(files)

    assert len(latest.keys) == len(last)
    assert latest.why_broken(files) == {name: row.error for name, row in last.items() if row.error}
    for size, stamp in np.ndindex(3, 3):
        items = [Item(name, name, size, stamp) for name in (*NAMES, "unknown.png")]
        known = [last.get(item.name) for item in items]
        wanted = [row.mask_bytes if row and row[1:4] == (size, stamp, "") else GONE for row in known]
        assert latest.mask_bytes(items) == wanted


def test_an_index_without_rows_knows_no_image(tmp_path: Path) -> None:
    files = Files.of(LocalStore(tmp_path))

    assert Latest.of(files).mask_bytes([Item("a.png", "a.png", 1, 1)]) == [GONE]
    assert Latest.of(files).why_broken(files) == {}


def test_a_long_session_has_few_files_and_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_MOST_ROWS", 2)
    monkeypatch.setattr(index, "_MOST_FILES", 5)
    monkeypatch.setattr(index, "_MERGED_ROWS", 10)
    log = Log(LocalStore(tmp_path), "1of1", 1)

    for n in range(47):
        log.add(Row(f"{n}.png", n, 0, mask_bytes=n))
    log.close()

    files = Files.of(LocalStore(tmp_path))
    assert len(files.names) <= 47 // 10 + 4
    assert files.latest(["mask_bytes"]) == {f"{n}.png": (n,) for n in range(47)}
    assert sum(table.num_rows for table in files.tables(["path"])) == 47


def test_a_page_that_does_not_decompress_is_told_as_a_damaged_file(tmp_path: Path) -> None:
    log = Log(LocalStore(tmp_path), "1of1", 1)
    for row in rows(np.random.default_rng(0), 20):
        log.add(row)
    log.close()
    file = next(tmp_path.glob("index/*.parquet"))
    whole = file.read_bytes()
    file.write_bytes(whole[:60] + bytes(255 - byte for byte in whole[60:120]) + whole[120:])

    with pytest.raises(InputError, match="is no Parquet that can be read"):
        Latest.of(Files.of(LocalStore(tmp_path)))


class Ending(LocalStore):
    """A driver ends between a listing of its index and the reading, so often."""

    def __init__(self, root: Path, times: int) -> None:
        super().__init__(root)
        self._left = times

    def entries(self, folder: str = "") -> Iterator[Entry]:
        listed = [*super().entries(folder)]
        if self._left:
            self._left -= 1
            for entry in listed:
                file = self.root / entry.name
                file.rename(file.with_name(f"{100 - self._left:06d}-1of1-000001.parquet"))
        return iter(listed)


def test_an_index_whose_driver_ends_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    log = Log(LocalStore(tmp_path), "1of1", 1)
    log.add(Row("a.png", 1, 1))
    log.close()

    found = at_one_moment(Ending(tmp_path, 3), lambda files: files.latest(["size"]))

    assert found == {"a.png": (1,)}
    with pytest.raises(GoneError, match="give the command again"):
        at_one_moment(Ending(tmp_path, 50), lambda files: files.latest(["size"]))


def test_a_kill_while_files_become_one_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_MOST_ROWS", 2)
    monkeypatch.setattr(index, "_MOST_FILES", 3)
    monkeypatch.setattr(LocalStore, "remove", lambda self, name: (_ for _ in ()).throw(KeyboardInterrupt))
    log = Log(LocalStore(tmp_path), "1of1", 1)

    with pytest.raises(KeyboardInterrupt):
        for n in range(6):
            log.add(Row(f"{n}.png", n, 0))

    files = Files.of(LocalStore(tmp_path))
    assert files.latest(["size"]) == {f"{n}.png": (n,) for n in range(6)}
    assert len(Latest.of(files).keys) == 6


def test_two_images_of_one_mask_are_refused_and_one_that_is_named_twice_is_one() -> None:
    one, other = Item("a.png", "a.png", 1, 1), Item("a.jpg", "a.jpg", 1, 1)

    assert once_each([one, one]) == [one]
    with pytest.raises(InputError, match=r"would both write a\.png"):
        once_each([one, other])
