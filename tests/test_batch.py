"""`segpipe batch` in one process: every image once, a row for each, and what a repeat may skip."""

import csv
import io
import json
import os
import shutil
import signal
import tarfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from segpipe import testing
from segpipe.batch.alone import alone
from segpipe.batch.driver import Here, Request, predict_batch, told
from segpipe.batch.index import Files, Log, Row
from segpipe.batch.items import WHOLE, Shard, of_shard, safe_name
from segpipe.batch.sources import find
from segpipe.batch.status import State, status
from segpipe.batch.stores import LocalStore
from segpipe.batch.version import Output, Version
from segpipe.errors import InputError, StorageError
from segpipe.media.images import read_image, write_image
from segpipe.predicting.job import Advance, Job
from segpipe.predicting.predict import predict_files
from segpipe.rundir.storage import explained_refusals
from segpipe.runtime.segmenter import Segmenter
from tests.calling import call
from tests.children import SEGPIPE, child, wait_until
from tests.using import names_below

pytest.importorskip("pyarrow")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images at two depths."""
    for n, name in enumerate(["a", "b", "deep/a", "deep/er/c", "deep/er/d"]):
        write_image(tmp_path / "in" / f"{name}.png", testing.make_frame(40 + n, 60, n)[0])
    return tmp_path / "in"


def ticked(frames: int, /, *, skipped: bool = False) -> None:
    """Nobody watches."""


def unseen(total: int) -> nullcontext[Advance]:
    """No bar."""
    return nullcontext(ticked)


def request(
    segmenter: Segmenter, source: Path, out: Path, outputs: tuple[Output, ...] = ("mask",), shard: Shard = WHOLE
) -> Request:
    job = Job(Path(), overlay=False, confidence="confidence" in outputs)
    return Request(str(source), str(out), job, Version.of(segmenter, job, outputs), shard)


def batch(segmenter: Segmenter, source: Path, out: Path, **more: object) -> State:
    asked = request(segmenter, source, out, **more)  # type: ignore[arg-type]
    return predict_batch(Here(segmenter, asked.job, asked.version.outputs), asked, unseen)


def rows(folder: str, *columns: str) -> dict[str, tuple[object, ...]]:
    return Files.of(LocalStore(Path(folder))).latest(columns)


def test_masks_lie_at_the_same_relative_path_and_equal_those_of_predict(
    segmenter: Segmenter, photos: Path, tmp_path: Path
) -> None:
    state = batch(segmenter, photos, tmp_path / "out")

    assert (state.found, state.done, state.skipped, state.broken) == (5, 5, 0, 0)
    for image in photos.rglob("*.png"):
        done, _ = predict_files(segmenter, [image], tmp_path / "each" / image.stem / image.parent.name)
        mask = Path(state.folder, "masks", image.relative_to(photos))
        assert mask.read_bytes() == done[0].mask.read_bytes()


def test_the_index_tells_of_each_image_what_its_mask_shows(segmenter: Segmenter, photos: Path, tmp_path: Path) -> None:
    outputs = ("mask", "confidence", "rle")

    state = batch(segmenter, photos, tmp_path / "out", outputs=outputs)

    told = rows(state.folder, "size", "mtime_ns", "height", "width", "shares", "mean_confidence", "rle", "ms", "error")
    assert sorted(told) == ["a.png", "b.png", "deep/a.png", "deep/er/c.png", "deep/er/d.png"]
    for name, (size, stamp, height, width, shares, sure, rle, ms, error) in told.items():
        result = segmenter.detail(photos / name)
        assert (size, stamp) == ((photos / name).stat().st_size, (photos / name).stat().st_mtime_ns)
        assert (height, width) == result.mask.shape
        assert shares == [area.share for area in result.areas().values()]
        assert json.loads(str(rle)) == result.rle()
        written = read_image(Path(state.folder, "confidence", name))
        assert sure == written.mean() / 255
        assert error == ""
        assert isinstance(ms, float)


def test_a_repeat_skips_what_index_and_mask_prove_and_makes_what_they_do_not(
    segmenter: Segmenter, photos: Path, tmp_path: Path
) -> None:
    first = batch(segmenter, photos, tmp_path / "out")
    masks = Path(first.folder, "masks")
    kept = {path: path.read_bytes() for path in masks.rglob("*.png")}
    assert batch(segmenter, photos, tmp_path / "out").skipped == 5

    (masks / "a.png").unlink()
    (masks / "b.png").write_bytes(kept[masks / "b.png"][:-1])
    os.utime(photos / "deep/a.png", ns=(1, 1))  # the same bytes of another time: proved by their hash
    write_image(photos / "deep/er/c.png", testing.make_frame(50, 60, 9)[0])
    again = batch(segmenter, photos, tmp_path / "out")

    assert (again.skipped, again.done) == (1, 4)
    made = {name for name, (ms,) in rows(again.folder, "ms").items() if ms is not None}
    assert "deep/a.png" not in made
    assert {"a.png", "b.png", "deep/er/c.png"} <= made
    assert {path for path, data in kept.items() if path.read_bytes() != data} == {masks / "deep/er/c.png"}
    assert batch(segmenter, photos, tmp_path / "out").skipped == 5


@pytest.mark.parametrize("leads_to", ["nowhere", "theirs.png", "ours.png"])
def test_a_link_in_a_masks_place_is_somebodys_and_stays(
    segmenter: Segmenter, photos: Path, tmp_path: Path, leads_to: str
) -> None:
    first = batch(segmenter, photos, tmp_path / "out")
    mask, target = Path(first.folder, "masks/a.png"), tmp_path / leads_to
    if leads_to == "ours.png":
        (photos / "b.png").replace(photos / "a.png")  # its mask is no more what the link leads to
        mask.rename(target)
    elif leads_to == "theirs.png":
        write_image(target, testing.make_frame(8, 8)[0])
    mask.unlink(missing_ok=True)
    mask.symlink_to(target)
    kept = target.read_bytes() if target.exists() else b""

    state = batch(segmenter, photos, tmp_path / "out")

    assert state.broken == 1
    assert "is a link, and would be replaced" in str(rows(state.folder, "error")["a.png"][0])
    assert mask.is_symlink()
    assert (target.read_bytes() if target.exists() else b"") == kept


def test_what_was_all_done_before_tells_no_speed(segmenter: Segmenter, photos: Path, tmp_path: Path) -> None:
    batch(segmenter, photos, tmp_path / "out")
    state = batch(segmenter, photos, tmp_path / "out")

    _, table, _ = call("batch", "status", tmp_path / "out")

    assert told(state) == "5 of 5 images are done"
    assert "0.0" not in table


def test_an_older_file_of_the_same_size_in_an_images_place_is_not_done(segmenter: Segmenter, tmp_path: Path) -> None:
    for n, color in enumerate((20, 230)):
        pixels = np.full((32, 32, 3), color, np.uint8)
        write_image(tmp_path / "in" / f"{n}.png", pixels)
    os.utime(tmp_path / "in/1.png", ns=(5, 5))
    state = batch(segmenter, tmp_path / "in", tmp_path / "out")

    (tmp_path / "in/1.png").replace(tmp_path / "in/0.png")
    batch(segmenter, tmp_path / "in", tmp_path / "out")

    assert (read_image(Path(state.folder, "masks/0.png"))[:, :, 0] == segmenter(tmp_path / "in/0.png")).all()


def test_without_its_index_a_folder_is_read_again_and_nothing_is_made_again(
    segmenter: Segmenter, photos: Path, tmp_path: Path
) -> None:
    outputs = ("mask", "confidence")
    state = batch(segmenter, photos, tmp_path / "out", outputs=outputs)
    columns = ("sha256", "shares", "mean_confidence", "mask_bytes", "height")
    told = rows(state.folder, *columns)
    shutil.rmtree(Path(state.folder, "index"))

    again = batch(segmenter, photos, tmp_path / "out", outputs=outputs)

    assert again.done == 5
    assert rows(again.folder, *columns) == told
    assert {ms for (ms,) in rows(again.folder, "ms").values()} == {None}


def test_another_artifact_and_other_options_have_a_folder_of_their_own(
    segmenter: Segmenter, photos: Path, tmp_path: Path
) -> None:
    other = testing.CONTRACT.model_copy(update={"network_size": (32, 32), "fit": "stretch"})

    first = batch(segmenter, photos, tmp_path / "out")
    with_more = batch(segmenter, photos, tmp_path / "out", outputs=("mask", "rle"))
    with Segmenter.open(testing.make_run(tmp_path / "other", other)) as second:
        changed = batch(second, photos, tmp_path / "out")

    assert len({first.folder, with_more.folder, changed.folder}) == 3
    assert changed.done == with_more.done == 5
    assert [one.done for one in status(str(tmp_path / "out"))] == [5, 5, 5]


def test_a_broken_image_is_recorded_its_old_mask_goes_and_the_exit_code_is_1(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    code, out, _ = call("batch", run, photos, "-o", tmp_path / "out")
    assert code == 0
    folder = Path(out.strip())
    (photos / "b.png").write_bytes(b"no picture")

    code, _, err = call("batch", run, photos, "-o", tmp_path / "out")

    assert code == 1
    assert "b.png is not an image" in err
    assert "1 of 5 images could not be segmented" in err
    assert not (folder / "masks/b.png").exists()
    code, told, _ = call("batch", "status", tmp_path / "out", "--json")
    assert code == 0
    assert [(one["done"], one["left"], [*one["broken"]]) for one in json.loads(told)] == [(4, 0, ["b.png"])]
    assert "b.png is not an image" in call("batch", "status", tmp_path / "out")[1]


def test_what_somebody_put_where_a_mask_goes_stays(segmenter: Segmenter, photos: Path, tmp_path: Path) -> None:
    folder = batch(segmenter, photos, tmp_path / "out").folder
    theirs = Path(folder, "masks/a.png")
    shutil.copy(photos / "b.png", theirs)

    state = batch(segmenter, photos, tmp_path / "out")

    assert state.broken == 1
    assert "no record of segpipe" in str(rows(folder, "error")["a.png"])
    assert theirs.read_bytes() == (photos / "b.png").read_bytes()


def test_what_cannot_be_read_where_a_mask_goes_stays_and_the_others_are_done(
    segmenter: Segmenter, photos: Path, tmp_path: Path
) -> None:
    folder = batch(segmenter, photos, tmp_path / "out").folder
    theirs = [Path(folder, "masks", name) for name in ("a.png", "b.png")]
    for path in theirs:
        path.unlink()
        os.mkfifo(path)
    (photos / "b.png").write_bytes(b"no picture")
    write_image(photos / "deep/a.png", testing.make_frame(50, 60, 9)[0])

    state = batch(segmenter, photos, tmp_path / "out")

    assert (state.done, state.broken) == (1, 2)
    assert "masks/a.png" in str(rows(folder, "error")["a.png"])
    assert all(path.is_fifo() for path in theirs)


def test_names_of_any_bytes_are_kept(segmenter: Segmenter, tmp_path: Path) -> None:
    names = ["new\nline.png", os.fsdecode(b"caf\xe9.png"), "caf\\xe9.png", "ünï.png"]
    for n, name in enumerate(names):
        write_image(tmp_path / "plain.png", testing.make_frame(20, 20, n)[0])
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "plain.png").rename(tmp_path / "in" / name)

    state = batch(segmenter, tmp_path / "in", tmp_path / "out")

    assert state.done == 4
    assert sorted(rows(state.folder, "size")) == sorted(names)
    assert sorted(os.listdir(f"{state.folder}/masks")) == sorted(names)  # noqa: PTH208 - names, not paths
    assert batch(segmenter, tmp_path / "in", tmp_path / "out").skipped == 4


def test_two_images_that_would_write_one_mask_are_refused(photos: Path) -> None:
    shutil.copy(photos / "a.png", photos / "a.jpg")

    with pytest.raises(InputError, match="would both write"):
        find(str(photos))


def test_a_source_without_images_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(InputError, match="holds no image"):
        find(str(tmp_path / "empty"))
    with pytest.raises(InputError, match="is no folder"):
        find(str(tmp_path / "gone"))


def test_masks_do_not_go_where_the_images_are(segmenter: Segmenter, photos: Path) -> None:
    with pytest.raises(InputError, match="lie in one folder"):
        batch(segmenter, photos, photos / "out")


def test_a_list_names_images_relative_to_itself_or_by_their_whole_path(
    segmenter: Segmenter, photos: Path, tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    named = ["in/a.png", "in/a.png", str(photos / "b.png"), "in/gone.png"]
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *([name, "x"] for name in named)])
    (tmp_path / "lists").mkdir()
    pq.write_table(pa.table({"path": [str(photos / "b.png")]}), tmp_path / "lists/list.parquet")

    by_csv = batch(segmenter, tmp_path / "list.csv", tmp_path / "out")
    by_parquet = batch(segmenter, tmp_path / "lists/list.parquet", tmp_path / "out2")

    assert {name: bool(error) for name, (error,) in rows(by_csv.folder, "error").items()} == {
        "in/a.png": False,
        "in/b.png": False,
        "in/gone.png": True,
    }
    assert [*rows(by_parquet.folder, "size")] == [str(photos / "b.png").lstrip("/")]


def test_a_list_without_the_column_says_which_it_has(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file,label\na,b\n")

    with pytest.raises(InputError, match="no column path, but file, label"):
        find(str(tmp_path / "list.csv"))


def tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def test_images_in_tars_are_segmented_where_they_lie(segmenter: Segmenter, photos: Path, tmp_path: Path) -> None:
    images = {f"sample/{name}.png": (photos / f"{name}.png").read_bytes() for name in ("a", "b")}
    (tmp_path / "tars").mkdir()
    tar(tmp_path / "tars/0001.tar", {**images, "sample/a.json": b"{}", "../../out.png": images["sample/a.png"]})
    (tmp_path / "tars/0002.tar").write_bytes(b"no tar at all" * 100)

    state = batch(segmenter, tmp_path / "tars", tmp_path / "out")

    assert (state.done, state.broken) == (2, 1)
    assert "0002.tar is no tar" in str(rows(state.folder, "error")["0002.tar"])
    for name in images:
        mask = read_image(Path(state.folder, "masks/0001.tar", name))
        assert (mask[:, :, 0] == segmenter(photos / Path(name).name)).all()
    assert batch(segmenter, tmp_path / "tars/0001.tar", tmp_path / "out").skipped == 2
    assert not [name for name in names_below(tmp_path) if name.endswith("/out.png")]


@pytest.mark.parametrize(
    ("name", "safe"), [("a/./b", "a/b"), ("/etc/x", "etc/x"), ("a/../../b", ""), ("..", ""), ("a\0b", "")]
)
def test_a_name_never_leads_out_of_the_folder(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_shards_hold_every_image_once(segmenter: Segmenter, photos: Path, tmp_path: Path) -> None:
    items = find(str(photos)).items
    shards = [Shard(number, 3) for number in (1, 2, 3)]

    parts = [of_shard(items, shard) for shard in shards]
    for shard in shards:
        batch(segmenter, photos, tmp_path / "out", shard=shard)

    assert sorted(item for part in parts for item in part) == sorted(items)
    assert [(one.found, one.done, one.left) for one in status(str(tmp_path / "out"))] == [(5, 5, 0)]
    assert batch(segmenter, photos, tmp_path / "out").skipped == 5


@pytest.mark.parametrize("text", ["0/2", "3/2", "x", "1/0", "-1/2", "1/2/3"])
def test_a_shard_that_is_none_is_wrong_usage(run: Path, photos: Path, tmp_path: Path, text: str) -> None:
    assert call("batch", run, photos, "-o", tmp_path / "out", "--shard", text)[0] == 2


def test_outputs_without_the_mask_are_wrong_usage(run: Path, photos: Path, tmp_path: Path) -> None:
    assert call("batch", run, photos, "-o", tmp_path / "out", "--outputs", "rle")[0] == 2
    assert call("batch", run, photos, "-o", tmp_path / "out", "--outputs", "mask,overlay")[0] == 2


def test_a_second_driver_is_refused_unless_it_has_another_shard_of_as_many(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    with alone(store, Shard(1, 2)), alone(store, Shard(2, 2)):
        for other in (Shard(1, 2), Shard(1, 3), WHOLE):
            with pytest.raises(InputError, match="is being filled"), alone(store, other):
                pass
    with alone(store, WHOLE):
        pass


def test_of_rows_of_one_name_the_last_one_counts_also_across_sessions(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for session, error in ((1, "gone"), (2, "")):
        log = Log(store, "1of1", session)
        for n in range(3):
            log.add(Row(f"{n}.png", 1, n, error="" if n else error))
            log.flush()
        log.add(Row("0.png", 2, 0, error=error))
        log.close()

    files = Files.of(store)

    assert files.names == ["index/000001-1of1-000000.parquet", "index/000002-1of1-000000.parquet"]
    assert files.latest(["size", "error"]) == {"0.png": (2, ""), "1.png": (1, ""), "2.png": (1, "")}
    assert sum(table.num_rows for table in files.tables(["path"])) == 6


def test_a_file_of_the_index_that_is_cut_off_is_named(segmenter: Segmenter, photos: Path, tmp_path: Path) -> None:
    folder = batch(segmenter, photos, tmp_path / "out").folder
    file = next(Path(folder, "index").iterdir())
    file.write_bytes(file.read_bytes()[:-9])

    with pytest.raises(InputError, match=f"{file.name} is no Parquet"):
        batch(segmenter, photos, tmp_path / "out")


def test_a_killed_driver_loses_nothing_and_leaves_no_half_file(run: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    for n in range(40):
        write_image(tmp_path / "in" / f"{n}.png", testing.make_frame(64, 64, n)[0])
    masks = next(iter([Path(request(segmenter, tmp_path / "in", tmp_path / "out").version.folder)]))
    folder = tmp_path / "out" / masks / "masks"

    for least in (5, 20):
        with child(*SEGPIPE, "batch", str(run), str(tmp_path / "in"), "-o", str(tmp_path / "out")) as process:
            wait_until(lambda least=least: folder.is_dir() and len([*folder.glob("*.png")]) >= least)  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
            process.wait()
    state = batch(segmenter, tmp_path / "in", tmp_path / "out")

    assert (state.done + state.skipped, state.broken) == (40, 0)
    assert len(rows(state.folder, "size")) == 40
    assert not [name for name in names_below(folder) if not name.endswith(".png")]
    for n in range(40):
        assert (read_image(folder / f"{n}.png")[:, :, 0] == segmenter(tmp_path / "in" / f"{n}.png")).all()


def test_a_full_disk_ends_it_and_keeps_what_was_done(
    segmenter: Segmenter, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote = LocalStore.write
    asked = request(segmenter, photos, tmp_path / "out")

    def write(self: LocalStore, name: str, data: bytes) -> None:
        if name == "masks/deep/a.png":
            with explained_refusals(name):
                raise OSError(28, "No space left on device")
        wrote(self, name, data)

    monkeypatch.setattr(LocalStore, "write", write)
    with pytest.raises(StorageError, match="No space"):
        predict_batch(Here(segmenter, asked.job, asked.version.outputs), asked, unseen)
    monkeypatch.undo()
    state = batch(segmenter, photos, tmp_path / "out")

    assert state.skipped >= 1
    assert state.skipped + state.done == 5
