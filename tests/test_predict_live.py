"""`segpipe predict` of streams: each frame's mask and time, drops that are counted, and whole files however it ends."""

import csv
import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segpipe import testing
from segpipe.errors import BackendError, InputError
from segpipe.media import live as live_module
from segpipe.media.address import live_address
from segpipe.media.images import read_image
from segpipe.predicting import recording as recording_module
from segpipe.predicting.job import Job, Live
from segpipe.predicting.killed import remove_killed
from segpipe.predicting.live import predict_live
from segpipe.predicting.recording import Recording
from segpipe.runtime.segmenter import Segmenter
from tests.calling import call
from tests.children import PATIENCE_S, SEGPIPE, child, wait_until
from tests.live_sources import HEIGHT, RATE, WIDTH, decoded, rtsp, sending, server, silent, transport_stream
from tests.using import names_below

FRAMES = 12
SECRET = "hunter2"


def record(segmenter: Segmenter, address: str, out: Path, drop_late: bool = False, **more: Any) -> Recording:
    return predict_live(segmenter, live_address(address), Job(out, **more), Live(drop_late), lambda *_, **__: None)


def times_of(recording: Recording) -> list[dict[str, str]]:
    with recording.times.open(newline="") as file:
        return list(csv.DictReader(file))


def record_of(recording: Recording) -> dict[str, int]:
    counts: dict[str, int] = json.loads((recording.masks / ".segpipe.json").read_text())["live"]
    return counts


@pytest.fixture(scope="module")
def content() -> bytes:
    """A stream of some frames."""
    return transport_stream(FRAMES)


@pytest.fixture(scope="module")
def long_content() -> bytes:
    """So much that FFmpeg opens it without waiting for more."""
    return transport_stream(100)


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["tcp", "rtsp"])
def test_every_frame_of_a_stream_has_its_mask_and_its_time(
    run: Path, tmp_path: Path, content: bytes, scheme: str
) -> None:
    answer = sending(content) if scheme == "tcp" else rtsp(content)
    with server(answer, scheme) as clients, Segmenter.open(run) as segmenter:
        recording = record(segmenter, clients.address, tmp_path, colour=True)
        wanted = [segmenter(frame) for frame in decoded(content)]

    name = recording.masks.name
    count = len(list(recording.masks.glob("*.png")))
    numbers = [f"{number:06d}.png" for number in range(count)]
    assert count == FRAMES or (scheme == "rtsp" and count == FRAMES - 1)  # nothing says that the last one is whole
    assert names_below(tmp_path) == [
        *(f"colours/{name}/{number}" for number in numbers),
        f"masks/{name}/.segpipe.json",
        *(f"masks/{name}/{number}" for number in numbers),
        f"times/{name}.csv",
        f"videos/{name}.mp4",
    ]
    for number, mask in zip(numbers, wanted, strict=False):
        np.testing.assert_array_equal(read_image(recording.masks / number)[:, :, 0], mask)
    stamps = [float(row["time_s"]) for row in times_of(recording)]
    np.testing.assert_allclose(np.diff(stamps), 1 / RATE, atol=1e-4)
    video = cv2.VideoCapture(str(recording.video))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == count
    assert record_of(recording) == {"frames": count, "dropped": 0, "reconnected": 0}


def test_two_recordings_never_meet(run: Path, tmp_path: Path, content: bytes) -> None:
    with server(sending(content)) as clients, Segmenter.open(run) as segmenter:
        first = record(segmenter, clients.address, tmp_path, overlay=False)
        second = record(segmenter, clients.address, tmp_path, overlay=False)

    assert first.masks != second.masks
    assert len(list(first.masks.glob("*.png"))) == len(list(second.masks.glob("*.png"))) == FRAMES


# --- keeping up ------------------------------------------------------------------------------------------------------


class Slow(Segmenter):
    """Takes its time for a frame."""

    def __call__(self, frames: Any) -> Any:
        time.sleep(0.1)
        return super().__call__(frames)


@pytest.mark.parametrize("drop_late", [True, False])
def test_frames_are_dropped_only_where_asked_and_are_counted(
    run: Path, tmp_path: Path, content: bytes, drop_late: bool
) -> None:
    with server(sending(content)) as clients, Slow.open(run) as segmenter:
        recording = record(segmenter, clients.address, tmp_path, drop_late, overlay=False)

    counts = record_of(recording)
    assert counts["frames"] + counts["dropped"] == FRAMES
    assert (counts["dropped"] > 0) == drop_late
    stamps = [float(row["time_s"]) for row in times_of(recording)]
    assert stamps == sorted(stamps)
    assert stamps[-1] - stamps[0] <= (FRAMES - 1) / RATE + 1e-4


# --- sources that break ----------------------------------------------------------------------------------------------


def test_a_stream_that_comes_back_is_one_recording(run: Path, tmp_path: Path, content: bytes) -> None:
    with server(sending(content)) as clients, Segmenter.open(run) as segmenter:

        def tick(*_: object, **__: object) -> None:
            if clients.count == 2:
                clients.over.set()  # after the next one it is gone

        job = Job(tmp_path, overlay=False)
        with pytest.raises(InputError, match="Connection refused"):
            predict_live(segmenter, live_address(clients.address), job, Live(reconnect_s=3), tick)

    (masks,) = (tmp_path / "masks").iterdir()
    counts = json.loads((masks / ".segpipe.json").read_text())["live"]
    assert clients.count >= 2
    assert counts["reconnected"] >= clients.count
    assert counts["frames"] == len(list(masks.glob("*.png"))) == FRAMES * clients.count


def test_nobody_there_is_one_line_without_the_password(run: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    address = f"rtsp://admin:{SECRET}@127.0.0.1:{port}/user={SECRET}"

    code, out, err = call("-v", "predict", run, address, "-o", tmp_path / "out", "--reconnect", "0.6")

    assert code == 1, err
    assert f"rtsp://127.0.0.1:{port} broke off or cannot be opened: Connection refused" in err
    assert "trying again" in err
    assert "Traceback" not in err
    assert SECRET not in err + out
    assert names_below(tmp_path / "out") == []


def test_the_password_is_in_no_file(run: Path, tmp_path: Path, content: bytes) -> None:
    with server(rtsp(content), "rtsp") as clients, Segmenter.open(run) as segmenter:
        address = clients.address.replace("://", f"://admin:{SECRET}@") + f"/street?password={SECRET}"
        recording = record(segmenter, address, tmp_path)

    assert recording.masks.name.endswith("Z")
    assert "street" in recording.masks.name
    for name in names_below(tmp_path):
        assert SECRET not in name
        assert SECRET.encode() not in (tmp_path / name).read_bytes()


def test_a_server_that_says_nothing_is_left(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_OPEN_S", 0.5)

    with server(silent) as clients, Segmenter.open(run) as segmenter:
        with pytest.raises(InputError, match="no answer"):
            record(segmenter, clients.address, tmp_path)
        clients.over.set()
    assert names_below(tmp_path) == []


def test_a_stream_that_stops_in_the_middle_keeps_what_came(
    run: Path, tmp_path: Path, long_content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "_READ_S", 0.5)

    with server(sending(long_content, silent)) as clients, Segmenter.open(run) as segmenter:
        with pytest.raises(InputError, match="no answer"):
            record(segmenter, clients.address, tmp_path)
        clients.over.set()

    (masks,) = (tmp_path / "masks").iterdir()
    counts = json.loads((masks / ".segpipe.json").read_text())["live"]
    assert len(list(masks.glob("*.png"))) == counts["frames"] > 0


def test_another_size_ends_the_recording_and_what_came_is_whole(run: Path, tmp_path: Path, content: bytes) -> None:
    both = content + transport_stream(FRAMES, HEIGHT // 2, WIDTH // 2)

    with (
        server(sending(both)) as clients,
        Segmenter.open(run) as segmenter,
        pytest.raises(InputError, match="changed its size from 64x96 to 32x48 after"),
    ):
        record(segmenter, clients.address, tmp_path)

    (masks,) = (tmp_path / "masks").iterdir()
    counts = json.loads((masks / ".segpipe.json").read_text())["live"]
    video = cv2.VideoCapture(str(tmp_path / "videos" / f"{masks.name}.mp4"))
    assert len(list(masks.glob("*.png"))) == counts["frames"] == video.get(cv2.CAP_PROP_FRAME_COUNT) > 0


@pytest.mark.parametrize(
    "nonsense", [b"", b"HTTP/1.1 200 OK\r\n\r\n<html>", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", bytes(1 << 16)]
)
def test_what_is_no_stream_is_one_line(run: Path, tmp_path: Path, nonsense: bytes) -> None:
    with (
        server(sending(nonsense)) as clients,
        Segmenter.open(run) as segmenter,
        pytest.raises(InputError, match=r"127\.0\.0\.1"),
    ):
        record(segmenter, clients.address, tmp_path)

    assert names_below(tmp_path) == []


def test_frames_over_the_limit_are_refused(run: Path, tmp_path: Path, content: bytes) -> None:
    with (
        server(sending(content)) as clients,
        Segmenter.open(run) as segmenter,
        pytest.raises(InputError, match="64x96, more than"),
    ):
        record(segmenter, clients.address, tmp_path, max_pixels=HEIGHT * WIDTH - 1)

    assert names_below(tmp_path) == []


# --- ending it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ending_it_closes_the_recording(run: Path, tmp_path: Path, long_content: bytes, number: signal.Signals) -> None:
    out = tmp_path / "out"
    with (
        server(sending(long_content, silent)) as clients,
        child(*SEGPIPE, "predict", str(run), clients.address, "-o", str(out)) as process,
    ):
        wait_until(lambda: len([*out.rglob("*.png")]) > 3, process)
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE_S)

    (masks,) = (out / "masks").iterdir()
    counts = json.loads((masks / ".segpipe.json").read_text())["live"]
    video = cv2.VideoCapture(str(out / "videos" / f"{masks.name}.mp4"))
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert len(list(masks.glob("*.png"))) == counts["frames"] == video.get(cv2.CAP_PROP_FRAME_COUNT)
    assert not [name for name in names_below(out) if "partial" in name]


def test_the_next_recording_removes_a_killed_ones_half_written_video_and_nothing_else(
    run: Path, tmp_path: Path, long_content: bytes, content: bytes
) -> None:
    def parts() -> list[str]:
        return sorted(path.name for path in (tmp_path / "videos").glob(".*"))

    with (
        server(sending(long_content, silent)) as clients,
        child(*SEGPIPE, "predict", str(run), clients.address, "-o", str(tmp_path)) as process,
    ):
        wait_until(lambda: len([*tmp_path.rglob("*.png")]) > 3, process)
        others = [tmp_path / "videos" / name for name in (".mine.partial.mp4", ".0123456789abcdef.partial.mp4")]
        for other in others:
            other.write_bytes(b"somebody's")
        remove_killed(tmp_path)
        while_it_lives = parts()
        process.kill()
        process.wait()
    killed = names_below(tmp_path / "masks")
    with server(sending(content)) as clients, Segmenter.open(run) as segmenter:
        record(segmenter, clients.address, tmp_path, overlay=False)

    assert len(while_it_lives) == 3
    assert parts() == sorted(other.name for other in others)
    assert {*killed} <= {*names_below(tmp_path / "masks")}


def test_ctrl_c_before_the_first_frame_leaves_nothing(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        server(silent) as clients,
        child(*SEGPIPE, "predict", str(run), clients.address, "-o", str(out)) as process,
    ):
        wait_until(lambda: clients.count > 0 and (out / "masks").exists(), process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130, err
    assert "no frame came" in err
    assert names_below(out) == []


def test_nothing_of_before_is_replaced(run: Path, tmp_path: Path) -> None:
    taken = [tmp_path / name for name in ("masks/cam", "times/cam-2.csv", "videos/cam-3.mp4", "colours/cam-4")]
    for path in taken:
        path.mkdir(parents=True)

    assert recording_module._new_folder(tmp_path, "cam") == tmp_path / "masks/cam-5"


# --- what can be asked for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "shown", "name"),
    [
        ("rtsp://cam/street", "rtsp://cam/street", "cam-street"),
        ("RTSP://u:p@CAM:8554/a/b?x=1#y", "rtsp://cam:8554/a/b", "cam-8554-a-b"),
        ("rtsp://u:p%40q@[::1]:554/a", "rtsp://[::1]:554/a", "1-554-a"),
        ("rtsp://cam/user=u_password=p_channel=1.sdp", "rtsp://cam", "cam"),
        ("udp://@:5000", "udp://:5000", "5000"),
        ("/dev/video0", "/dev/video0", "dev-video0"),
        (f"rtsp://{'a' * 300}/b", f"rtsp://{'a' * 300}/b", "a" * 100),
        ("rtsp://é", "rtsp://é", "stream"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(address: str, shown: str, name: str) -> None:
    found = live_address(address)

    assert (found.shown, found.name, found.whole) == (shown, name, address)
    assert address not in repr(found) or address == shown


@pytest.mark.parametrize(
    "address",
    [f"rtsp://u:{SECRET}@cam:port/x", f"rtsp://u:{SECRET}@/x", f"rtsp://u:{SECRET}@[::1/x", f"rtsp://u:{SECRET}@a b/",
     f"http://u:{SECRET}@cam/x", f"file://{SECRET}", f"rtsp://u:{SECRET}@cam\r\nX: y"],
)  # fmt: skip
def test_an_address_that_cannot_be_read_is_refused_without_its_password(address: str) -> None:
    with pytest.raises(InputError) as caught:
        live_address(address)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ("rtsp://a/b", "rtsp://a/c"),
        ("rtsp://a/b", "one.png"),
        ("one.png", "--drop-late"),
        ("one.png", "--reconnect", "3"),
    ],
)
def test_what_a_stream_alone_takes_is_wrong_usage_elsewhere(run: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    code, _, err = call("predict", run, *words, "-o", tmp_path / "out")

    assert code == 2, err


def test_a_camera_that_is_not_there_is_one_line(run: Path, tmp_path: Path) -> None:
    code, _, err = call("predict", run, "/dev/video97", "-o", tmp_path / "out")

    assert code == 1
    assert "/dev/video97 broke off or cannot be opened: No such file or directory" in err


def test_a_network_of_other_frames_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    contract = testing.CONTRACT.model_copy(
        update={"channels": 1, "mean": (0.5,), "std": (0.2,), "channel_order": "as_is"}
    )
    with (
        Segmenter.open(testing.make_run(tmp_path / "run", contract)) as segmenter,
        pytest.raises(InputError, match="takes 1 of uint8"),
    ):
        record(segmenter, "tcp://127.0.0.1:1", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_error_of_the_network_keeps_what_came(run: Path, tmp_path: Path, content: bytes) -> None:
    class Failing(Segmenter):
        calls = 0

        def __call__(self, frames: Any) -> Any:
            self.calls += 1
            if self.calls > 3:
                raise BackendError("the GPU fell off the bus")
            return super().__call__(frames)

    with (
        server(sending(content)) as clients,
        Failing.open(run) as segmenter,
        pytest.raises(BackendError, match="fell off"),
    ):
        record(segmenter, clients.address, tmp_path)

    (masks,) = (tmp_path / "masks").iterdir()
    assert json.loads((masks / ".segpipe.json").read_text())["live"]["frames"] == 3
