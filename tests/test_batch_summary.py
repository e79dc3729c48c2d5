"""The page of a batch: what it counts, what it shows, and that names of files are text on it."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from segpipe import testing
from segpipe.media.images import write_image
from segpipe.predicting.job import Advance, Job
from segpipe.runtime.segmenter import Segmenter
from tests.calling import call

pytest.importorskip("pyarrow")

from segpipe.batch.driver import Here, Request, predict_batch
from segpipe.batch.index import Files, Log, Row
from segpipe.batch.stores import LocalStore
from segpipe.batch.summary import summarise
from segpipe.batch.version import Version

NAMES = ("a.png", "<b>&bold.png", "deep/c.png")


@pytest.fixture(scope="module")
def out(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A batch of three images and one that is none."""
    folder = tmp_path_factory.mktemp("summary")
    for n, name in enumerate(NAMES):
        write_image(folder / "in" / name, testing.make_frame(40, 60, n)[0])
    (folder / "in/<script>.png").write_bytes(b"no picture")
    job = Job(Path(), overlay=False)

    def unseen(total: int) -> nullcontext[Advance]:
        return nullcontext(lambda frames, /, *, skipped=False: None)

    with Segmenter.open(run) as segmenter:
        version = Version.of(segmenter, job, ("mask",))
        request = Request(str(folder / "in"), str(folder / "out"), job, version)
        predict_batch(Here(segmenter, job, ("mask",)), request, unseen)
    return folder / "out"


def test_the_page_tells_what_became_of_the_images_and_names_are_text(out: Path) -> None:
    code, *_ = call("batch", "summary", out)

    assert code == 0
    (page,) = out.glob("*/summary.html")
    text = page.read_text()
    assert "3 images done, 1 broken" in text
    assert "&lt;b&gt;&amp;bold.png" in text
    assert "<b>" not in text
    assert "<script>" not in text
    assert "&lt;script&gt;.png is not an image" in text
    assert text.count("<figcaption>image</figcaption>") == text.count("<figcaption>mask</figcaption>") == 3
    assert "http" not in text


def test_an_image_that_changed_since_is_not_shown_beside_its_mask(out: Path, tmp_path: Path) -> None:
    image = out.parent / "in/a.png"
    kept = image.rename(tmp_path / "a.png")  # for other tests, with its time
    write_image(image, testing.make_frame(40, 60, 9)[0])

    call("batch", "summary", out)
    kept.replace(image)

    (page,) = out.glob("*/summary.html")
    assert page.read_text().count("<figcaption>image</figcaption>") == 2


def test_of_an_image_the_last_row_counts_and_the_sample_is_drawn_by_name_and_seed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for session, error in ((1, "torn"), (2, "")):
        log = Log(store, "1of1", session)
        for n in range(session, 9):
            log.add(
                Row(
                    f"{n}.png", 1, 1, error=error, mask=f"masks/{n}.png", height=10, width=10, ms=float(n),
                    shares=[0.25, 0.75], finished_utc=60.0 * n,
                )
            )  # fmt: skip
        log.close()
    files = Files.of(store)

    found, same, other = (summarise(files, seed, 3) for seed in (0, 0, 1))

    assert (found.done, found.broken, found.pixels) == (7, 1, 700)
    assert found.reasons == {"1.png": "torn"}
    assert (found.share(0), found.share(1)) == (0.25, 0.75)
    assert [name for _, name in found.slowest][:2] == ["8.png", "7.png"]
    assert (found.unit_s, dict(found.moments)) == (1, {60 * n: 1 for n in range(2, 9)})
    assert found.sample == same.sample
    assert [name for *_, name in found.sample] != [name for *_, name in other.sample]


def test_a_short_batch_has_a_bar_a_second_and_a_long_one_is_counted_by_minutes(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row("", 1, 1, mask="a.png", height=1, width=1, ms=1.0, shares=[1.0])
    log = Log(LocalStore(tmp_path), "1of1", 1)
    for n in range(5):
        log.add(row._replace(path=str(n), finished_utc=100.0 + 30 * n))
    log.add(row._replace(path="edited", finished_utc=1e15))
    log.close()

    short = summarise(Files.of(LocalStore(tmp_path)), 0, 0)
    monkeypatch.setattr("segpipe.batch.summary._MOST_MOMENTS", 2)
    long = summarise(Files.of(LocalStore(tmp_path)), 0, 0)
    call("batch", "summary", out)

    assert (short.unit_s, dict(short.moments)) == (1, {100: 1, 130: 1, 160: 1, 190: 1, 220: 1})
    assert (long.unit_s, dict(long.moments)) == (60, {1: 1, 2: 2, 3: 2})
    (page,) = out.glob("*/summary.html")
    assert "1 s a bar" in page.read_text()


def edited(out: Path, change: Any) -> Path:
    """The index, as somebody wrote it again."""
    import pyarrow.parquet as pq

    (file,) = out.glob("*/index/*.parquet")
    pq.write_table(change(pq.read_table(file)), file)
    return file


def without(column: str) -> Any:
    """A table whose first row lacks a value."""
    import pyarrow as pa

    def change(table: Any) -> Any:
        place, kind = table.column_names.index(column), table.schema.field(column).type
        values = [None, *table.column(column).to_pylist()[1:]]
        return table.set_column(place, pa.field(column, kind), pa.array(values, kind))

    return change


def of_other_classes(table: Any) -> Any:
    import pyarrow as pa

    values = [[0.5] * n for n in range(table.num_rows)]
    return table.set_column(table.column_names.index("shares"), "shares", pa.array(values, pa.list_(pa.float64())))


def of_another_type(table: Any) -> Any:
    return table.set_column(table.column_names.index("size"), "size", table.column("size").cast("string"))


@pytest.mark.parametrize(
    ("command", "change", "says"),
    [
        ("status", without("path"), "a row has no path"),
        ("status", without("error"), "a row has no error"),
        ("status", lambda table: table.drop_columns(["mask_bytes"]), "FieldRef.Name(mask_bytes)"),
        ("status", of_another_type, "size is string, not int64"),
        ("summary", without("path"), "a row has no path"),
        ("summary", without("height"), "a row has no height"),
        ("summary", without("finished_utc"), "a row has no finished_utc"),
        ("summary", lambda table: without("shares")(table.sort_by("error")), "rows without shares"),
        ("summary", of_other_classes, "or with those of other classes"),
    ],
)
def test_an_index_that_somebody_edited_is_one_line(
    out: Path, tmp_path: Path, command: str, change: Any, says: str
) -> None:
    shutil.copytree(out, tmp_path / "out")
    file = edited(tmp_path / "out", change)

    code, _, err = call("batch", command, tmp_path / "out")

    assert (code, says in err, str(file.parent) in err, "delete it" in err) == (1, True, True, True), err


def test_a_folder_without_a_batch_is_one_line(tmp_path: Path) -> None:
    assert call("batch", "summary", tmp_path)[0] == 1


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("state/1of1.json", {"shard": 5}),
        ("state/1of1.json", {"found": None}),
        ("state/1of1.json", {"images_per_s": "y"}),
        ("state/1of1.json", {"images_per_s": float("nan")}),
        ("state/1of1.json", {"noted_utc": None}),
        ("batch.json", {"classes": 5}),
        ("batch.json", {"classes": ["one"]}),
        ("batch.json", {"palette": "abc"}),
        ("batch.json", {"classes": ["one"], "palette": [[0, 0, 0]]}),
    ],
)
def test_what_a_driver_noted_and_somebody_edited_is_one_line(
    out: Path, tmp_path: Path, file: str, change: dict[str, Any]
) -> None:
    shutil.copytree(out, tmp_path / "out")
    (path,) = (tmp_path / "out").glob(f"*/{file}")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    code, _, err = call("batch", "status" if file.startswith("state") else "summary", tmp_path / "out")

    assert code == 1
    assert str(path) in err
    assert "delete it" in err


@pytest.mark.parametrize("is_link", [False, True])
def test_a_page_of_somebodys_or_a_link_in_its_place_stays(out: Path, tmp_path: Path, is_link: bool) -> None:
    shutil.copytree(out, tmp_path / "out")
    (version,) = (tmp_path / "out").iterdir()
    theirs, place = tmp_path / "theirs.html", version / "summary.html"
    place.unlink(missing_ok=True)
    theirs.write_text("a page")
    if is_link:
        place.symlink_to(theirs)
    else:
        place.write_text("a page")

    code, _, err = call("batch", "summary", tmp_path / "out")

    assert (code, f"{place} is no page of segpipe" in err) == (1, True)
    assert place.read_text() == "a page"
    assert place.is_symlink() == is_link
