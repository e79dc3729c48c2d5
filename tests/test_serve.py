"""`segpipe serve`: what POST /segment answers is what the runtime answers, and what the other paths tell."""

import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from segpipe import Result, Segmenter, testing
from segpipe.errors import InputError
from segpipe.serving.answers import KINDS, KINDS_OF_THINGS, chosen
from tests.calling import call
from tests.serving import BEARER, Served, picture, serving, token_file


@pytest.fixture(scope="module")
def served(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("token")
    with serving(run, "--token-file", token_file(folder)) as server:
        yield server


@pytest.fixture(scope="module")
def result(run: Path) -> Any:
    with Segmenter.open(run) as segmenter:
        return segmenter.detail(picture())


def form(body: bytes, name: str = "picture", more: str = "") -> tuple[bytes, dict[str, str]]:
    """One file as multipart/form-data, with its header."""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n\r\n'
    return head.encode() + body + f"\r\n{more}--b--\r\n".encode(), {"content-type": "multipart/form-data; boundary=b"}


def test_the_mask_is_the_runtimes_and_says_of_which_artifact(served: Served, run: Path, result: Any) -> None:
    answer = served.segment(picture())

    assert answer.status == 200
    assert answer.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(answer.mask, result.mask)
    with Segmenter.open(run) as segmenter:
        assert answer.headers["x-segpipe-artifact"] == segmenter.artifact_sha256


def test_a_form_and_raw_bytes_of_any_image_type_give_the_same_mask(served: Served, result: Any) -> None:
    body, headers = form(picture())

    masks = [served.segment(body, **headers).mask]
    masks += [
        served.segment(picture(), **{"content-type": kind}).mask
        for kind in ("image/png", "application/octet-stream", "application/x-www-form-urlencoded")
    ]

    for mask in masks:
        np.testing.assert_array_equal(mask, result.mask)


def test_accept_chooses_what_is_made_of_the_result(served: Served, result: Any) -> None:
    def answered(accept: str) -> Any:
        return served.segment(picture(), accept)

    coloured, laid_over = answered("image/png; show=colour").mask, answered("image/png;show=overlay").mask
    np.testing.assert_array_equal(coloured[:, :, ::-1], result.colour())
    np.testing.assert_array_equal(laid_over[:, :, ::-1], result.overlay(picture()))
    shares = answered("application/json").json["classes"]
    assert {name: share["pixels"] for name, share in shares.items()} == {
        name: area.pixels for name, area in result.areas().items()
    }
    assert answered("application/json; show=rle").json["classes"] == result.rle()
    rings = answered("application/json; show=polygons").json["classes"]
    assert {name: len(found) for name, found in rings.items()} == {
        name: len(found) for name, found in result.polygons().items()
    }
    raw = answered("application/octet-stream")
    assert raw.headers["x-segpipe-mask"] == "uint8 40x60"
    assert raw.body == result.mask.tobytes()


@pytest.mark.parametrize(
    ("show", "tile", "times", "said"),
    [
        (
            "polygons",
            [[0, 1], [1, 0]],
            (200, 200),
            "158... outlines and holes or more, at most 100000 are made. ask for show=rle",
        ),
        ("polygons", [[0, 0], [1, 0]], (400, 400), "159... outlines and holes or more"),
        (
            "polygons",
            [[0, 0], [1, 0], [1, 1]],
            (700, 700),
            "outlines and holes of 1...... points, at most 1000000 are made",
        ),
        ("rle", [[0], [1]], (1500, 1500), "run lengths would be 4500000 or more"),
    ],
    ids=["checkerboard", "dots", "combs", "stripes"],
)
def test_what_would_fill_the_memory_is_refused_before_it_is_made(
    show: str, tile: list[list[int]], times: tuple[int, int], said: str
) -> None:
    """A checkerboard of 2000x2000 pixels took 18.7 s and 655 MB."""
    mask = np.tile(np.array(tile, np.uint8), times)
    kind = chosen(f"application/json; show={show}", KINDS)
    assert kind

    with pytest.raises(InputError, match=said):
        kind.make(Result(mask, testing.CONTRACT, testing.PALETTE), np.zeros((*mask.shape, 3), np.uint8))


@pytest.mark.parametrize(
    ("accept", "name"),
    [
        ("", "image/png"),
        ("*/*", "image/png"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", "image/png"),
        ("image/*", "image/png"),
        ("application/*", "application/json"),
        ("application/json;q=0.5, image/png;show=overlay;q=0.9", "image/png; show=overlay"),
        ('application/json; show="rle"', "application/json; show=rle"),
        ("image/png;q=0, application/octet-stream;q=0.1", "application/octet-stream"),
        ("image/jpeg", None),
        ("image/png;show=nothing", None),
        ("image/png;q=nan, ;;=;q", None),
        ("image", None),
        ("*/*;q=9", None),
        ("a/b," * 63 + "image/png", "image/png"),
        ("a/b," * 64 + "image/png", None),
    ],
)
def test_accept_is_read_as_http_has_it(accept: str, name: str | None) -> None:
    kind = chosen(accept, KINDS)

    assert (kind.name if kind else None) == name


def test_every_kind_of_answer_can_be_asked_for_by_its_name() -> None:
    for kinds in (KINDS, KINDS_OF_THINGS):
        assert [chosen(kind.name, kinds) for kind in kinds] == [*kinds]
        assert chosen("*/*", kinds) is kinds[0]


def test_a_turned_photograph_comes_back_upright(served: Served) -> None:
    photograph, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(testing.make_frame(40, 60)[0]).save(photograph, "JPEG", exif=exif)

    assert served.segment(photograph.getvalue()).mask.shape == (60, 40)


def test_model_tells_contract_hashes_and_verdicts(served: Served, run: Path) -> None:
    about = served.ask("GET", "/model", headers=BEARER).json

    with Segmenter.open(run) as segmenter:
        told = segmenter.describe()
        assert {name: about[name] for name in told} == told
        assert tuple(about["contract"]["classes"]) == segmenter.contract.classes
    assert [verdict["status"] for verdict in about["verdicts"]] == ["passed"]
    assert about["last_reload"] is None


def test_metrics_count_answers_and_time_each_part_of_one(served: Served) -> None:
    def counted(found: dict[str, float], start: str) -> float:
        return sum(value for name, value in found.items() if name.startswith(start))

    before = served.metrics()
    artifact = served.segment(picture()).headers["x-segpipe-artifact"]
    served.segment(b"")
    after = served.metrics()

    for status in ("200", "400"):
        name = f'segpipe_requests_total{{artifact="{artifact}",status="{status}"}}'
        assert after[name] > before.get(name, 0)
    for stage in ("wait", "decode", "segment", "encode"):
        name = f'segpipe_stage_milliseconds_count{{artifact="{artifact}",stage="{stage}"}}'
        assert after[name] - before.get(name, 0) == 1
    assert after["segpipe_queue_depth"] == 0
    assert after["segpipe_ready"] == 1
    assert counted(after, "segpipe_reloads_total") == 0
    assert after["process_resident_memory_bytes"] > 0


def test_the_request_id_comes_back_unless_it_is_no_id(served: Served) -> None:
    given = served.ask("GET", "/healthz", headers={"x-request-id": "order-66"}).headers["x-request-id"]
    made = served.ask("GET", "/healthz", headers={"x-request-id": "two words"}).headers["x-request-id"]

    assert given == "order-66"
    assert uuid.UUID(made)


def test_the_page_of_the_service_names_every_path_and_loads_nothing(served: Served) -> None:
    openapi = served.ask("GET", "/openapi.json", headers=BEARER).json
    page = served.ask("GET", "/docs", headers=BEARER)
    text = page.body.decode()

    assert {"/segment", "/model", "/reload", "/healthz", "/readyz", "/metrics"} <= {*openapi["paths"]}
    assert all(f"{path}</h2>" in text for path in openapi["paths"])
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not any(mark in text for mark in ("://", "src=", "<script", "url("))
    assert "http" not in json.dumps(openapi["paths"])


def test_what_keeps_the_server_from_starting_is_one_line(tmp_path: Path, served: Served) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    refused = [
        (["serve", str(tmp_path / "none"), "--port", "0"], "there is no run directory"),
        (["serve", ".", "--port", str(served.port)], "cannot listen on 127.0.0.1"),
        (["serve", ".", "--host", "256.1.1.1"], "cannot listen on 256.1.1.1"),
        (["serve", ".", "--port", "0", "--token-file", str(empty)], "holds no token"),
        (["serve", ".", "--port", "0", "--token-file", str(tmp_path)], "cannot be read"),
    ]
    for arguments, said in refused:
        code, _, err = call(*arguments)

        assert code == 1
        assert said in err
        assert err.count("\n") == 1


def test_a_picture_of_the_camera_kind_is_answered_in_its_own_size(served: Served) -> None:
    frame = testing.make_frame(96, 128)[0]
    jpeg = cv2.imencode(".jpg", frame)[1].tobytes()

    assert served.segment(jpeg).mask.shape == (96, 128)


def test_the_page_is_open_to_all_and_the_model_tells_its_colours(served: Served) -> None:
    page, model = served.ask("GET", "/"), served.ask("GET", "/model", headers=BEARER)

    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b'id="drop"' in page.body
    assert [tuple(colour) for colour in model.json["palette"]] == list(testing.PALETTE)
