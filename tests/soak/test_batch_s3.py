"""`segpipe batch` from and to S3, against moto's server on the loopback: `make s3`."""

import http.client
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from segpipe import testing
from segpipe.batch import signs
from segpipe.batch.alone import alone
from segpipe.batch.items import WHOLE
from segpipe.batch.stores import open_store
from segpipe.errors import InputError
from segpipe.media.images import write_image
from tests.children import child
from tests.using import Ended, make_images, segpipe

pytestmark = pytest.mark.soak
COUNT = 12


class Throttling(BaseHTTPRequestHandler):
    """Passes requests to read on to moto; every third is answered as S3 does under load."""

    protocol_version = "HTTP/1.1"
    behind: ClassVar[str] = ""
    seen: ClassVar[int] = 0
    gone: ClassVar[str] = ""
    """A key of an object that vanishes between the listing and the reading."""

    def _pass_on(self) -> None:
        type(self).seen += 1
        if self.seen % 3 == 0:
            return self._answer(503, [], b"<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>")
        if self.gone and self.gone in self.path and "list-type" not in self.path:
            return self._answer(404, [], b"")
        connection = http.client.HTTPConnection(self.behind)
        told = {name: value for name, value in self.headers.items() if name.lower() not in {"expect", "connection"}}
        connection.request(self.command, self.path, headers=told)
        answer = connection.getresponse()
        data = answer.read()
        kept = [pair for pair in answer.getheaders() if pair[0].lower() not in {"transfer-encoding", "connection"}]
        return self._answer(answer.status, kept, data)

    do_GET = do_HEAD = _pass_on  # noqa: N815 - the names that http.server looks for

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        names = {name.lower() for name, _ in headers}
        for name, value in headers:
            self.send_header(name, value)
        if "content-length" not in names:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """Host and port of moto's server; it chooses the port itself."""
    if not (server := os.environ.get("SEGPIPE_MOTO")):
        pytest.skip("SEGPIPE_MOTO names no moto_server: run `make s3`")
    with child(server, "-H", "127.0.0.1", "-p", "0", stdout=subprocess.DEVNULL) as process:
        assert process.stderr
        for line in process.stderr:
            if found := re.search(r"Running on http://(\S+)", line):
                yield found[1]
                return
    pytest.fail("moto's server did not start")


@pytest.fixture
def throttled(moto: str) -> Iterator[str]:
    """Of a server before it that throttles."""
    Throttling.behind, Throttling.seen, Throttling.gone = moto, 0, ""
    with ThreadingHTTPServer(("127.0.0.1", 0), Throttling) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def on(server: str) -> dict[str, str]:
    """The environment of a command that is to use it."""
    return {
        "AWS_ENDPOINT_URL": f"http://{server}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip


def uploaded(moto: str, bucket: str, images: list[Path]) -> None:
    """Into a bucket for images, beside one for results."""
    host, _, port = moto.partition(":")
    for name in (f"/{bucket}", f"/{bucket}-out", *(f"/{bucket}/deep/{image.name}" for image in images)):
        connection = http.client.HTTPConnection(host, int(port))
        path = images[0].parent / Path(name).name
        connection.request("PUT", name, path.read_bytes() if path.suffix else b"")
        assert connection.getresponse().status == 200


def downloaded(moto: str, key: str) -> bytes:
    connection = http.client.HTTPConnection(moto)
    connection.request("GET", f"/{key}")
    return connection.getresponse().read()


def batch(run: Path, bucket: str, server: str, *more: object) -> Ended:
    return segpipe("batch", run, f"s3://{bucket}/deep", "-o", f"s3://{bucket}-out/to", "--json", *more, env=on(server))


def test_masks_in_a_bucket_are_those_of_a_folder_and_are_made_once(run: Path, moto: str, tmp_path: Path) -> None:
    images = make_images(tmp_path / "in", COUNT)
    uploaded(moto, "plain", images)

    first, again = batch(run, "plain", moto), batch(run, "plain", moto)
    here = segpipe("batch", run, tmp_path / "in", "-o", tmp_path / "out", "--json")

    assert (json.loads(first.stdout)["done"], json.loads(again.stdout)["skipped"]) == (COUNT, COUNT), first.stderr
    version = json.loads(first.stdout)["folder"].removeprefix("s3://")
    for image in images:
        mask = downloaded(moto, f"{version}/masks/{image.name}")
        own = Path(json.loads(here.stdout)["folder"], "masks", image.name).read_bytes()
        assert mask[-200:] == own[-200:]  # all but the record, which names where the image lay
    told = segpipe("batch", "status", "s3://plain-out/to", "--json", env=on(moto))
    assert json.loads(told.stdout)[0]["done"] == COUNT


def test_a_throttled_source_costs_time_and_nothing_else(run: Path, moto: str, throttled: str, tmp_path: Path) -> None:
    uploaded(moto, "throttled", make_images(tmp_path / "in", COUNT))

    ended = segpipe("batch", run, "s3://throttled/deep", "-o", tmp_path / "out", "--json", env=on(throttled))

    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["done"] == COUNT
    assert Throttling.seen > COUNT


def test_an_object_that_vanishes_after_it_was_listed_is_broken_and_the_rest_is_done(
    run: Path, moto: str, throttled: str, tmp_path: Path
) -> None:
    uploaded(moto, "vanishing", make_images(tmp_path / "in", COUNT))
    Throttling.gone = "vanishing/deep/image3.png"

    ended = segpipe("batch", run, "s3://vanishing/deep", "-o", tmp_path / "out", "--json", env=on(throttled))

    assert ended.returncode == 1
    assert (json.loads(ended.stdout)["done"], json.loads(ended.stdout)["broken"]) == (COUNT - 1, 1)
    assert b"image3.png does not exist" in ended.stderr


@pytest.mark.parametrize("actors", [1, 2])
def test_a_geotiff_in_a_bucket_has_the_mask_of_a_folder_also_in_strips(
    actors: int, moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rasterio")
    from tests.test_rasters import BOTH, TILE, frame, write_tiff

    run = testing.make_run(
        tmp_path / "run", testing.CONTRACT.model_copy(update={"fit": "stretch", "network_size": TILE})
    )
    image = write_tiff(tmp_path / "in/a.tif", frame(), **BOTH)
    uploaded(moto, f"raster-{actors}", [image])
    monkeypatch.setenv("TMPDIR", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()

    first, again = (batch(run, f"raster-{actors}", moto, "--geotiff", "--actors", actors) for _ in range(2))
    here = segpipe("batch", run, tmp_path / "in", "-o", tmp_path / "out", "--json", "--geotiff")

    assert (first.returncode, json.loads(first.stdout)["done"]) == (0, 1), first.stderr
    assert json.loads(again.stdout)["skipped"] == 1
    mask = downloaded(moto, f"{json.loads(first.stdout)['folder'].removeprefix('s3://')}/masks/a.tif")
    own = Path(json.loads(here.stdout)["folder"], "masks/a.tif").read_bytes()
    length = own.rindex(b'{"artifact_sha256"')  # the record behind it names where the image lay
    assert mask[:length] == own[:length]
    assert [*(tmp_path / "copies").glob("segpipe-*")] == []


def test_a_bucket_that_is_not_there_is_one_line(run: Path, moto: str, tmp_path: Path) -> None:
    write_image(tmp_path / "in/a.png", testing.make_frame(20, 20)[0])

    ended = segpipe("batch", run, tmp_path / "in", "-o", "s3://nowhere/to", env=on(moto))

    assert ended.returncode == 1
    assert ended.stderr.count(b"NO_SUCH_BUCKET") == 1


def test_a_second_driver_on_a_bucket_is_refused_and_the_next_one_is_not(
    moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded(moto, "drivers", make_images(tmp_path / "in", 1))
    for name, value in on(moto).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(signs, "_BEAT_S", 0.1)
    store = open_store("s3://drivers-out/to/version")

    with (
        alone(store, WHOLE),
        pytest.raises(InputError, match="is being filled by another segpipe"),
        alone(store, WHOLE),
    ):
        pass
    with alone(store, WHOLE):
        assert [entry.name for entry in store.entries()] == ["alive/1of1.json"]

    assert [*store.entries()] == []
