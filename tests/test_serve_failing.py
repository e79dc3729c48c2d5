"""What fails behind `segpipe serve` is told apart: the picture's fault, the backend's for a moment, for good, a bug."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.children import wait_until
from tests.serving import Served, picture, serving

PLANTED = """
import time
from segpipe.errors import BackendError, UnfitFrameError
from segpipe.runtime.cuda.device import DeviceLostError, OutOfMemoryError
from segpipe.runtime.segmenter import Segmenter

whole, by_width = Segmenter.detail, {
    41: UnfitFrameError("the engine takes others", hint="build it for more"),
    42: OutOfMemoryError("allocating 9 bytes failed", hint="close other programs"),
    43: MemoryError("9 bytes"),
    44: BackendError("the library failed"),
    45: ZeroDivisionError("no words for clients"),
    46: DeviceLostError("cuLaunch failed", hint="the GPU was lost"),
}

def detail(self, frame, *rest):
    if planted := by_width.get(frame.shape[1]):
        raise planted
    if frame.shape[1] == 47:
        print("begun", flush=True)
        time.sleep(1e6)
    return whole(self, frame, *rest)

Segmenter.detail = detail
"""
"""Frames of these widths fail, as the backends say it."""


@pytest.fixture(scope="module")
def served(run: Path) -> Iterator[Served]:
    with serving(run, before=PLANTED) as server:
        yield server


def failures(served: Served) -> float:
    return served.metrics()["segpipe_backend_failures_total"]


@pytest.mark.parametrize(
    ("width", "status", "said"),
    [
        (41, 422, "the engine takes others. build it for more"),
        (42, 503, "allocating 9 bytes failed. close other programs"),
        (43, 503, "memory ran out: 9 bytes"),
        (44, 503, "the library failed"),
        (45, 500, "a bug: ZeroDivisionError. The server's log has more"),
    ],
)
def test_one_picture_fails_in_the_runtimes_words_and_the_next_is_answered(
    served: Served, width: int, status: int, said: str
) -> None:
    before = failures(served)

    answer = served.segment(picture(40, width))

    assert (answer.status, answer.json["detail"]) == (status, said)
    assert ("retry-after" in answer.headers) == (status == 503)
    assert failures(served) - before == (status == 503)
    assert any(f'status="{status}"' in name for name in served.metrics())
    assert served.segment(picture()).status == 200
    assert [served.ask("GET", path).status for path in ("/readyz", "/healthz")] == [200, 200]


def test_a_lost_gpu_takes_the_server_out_of_service_and_says_what_helps(run: Path) -> None:
    with serving(run, before=PLANTED) as served:
        first, later = served.segment(picture(40, 46)), served.segment(picture())
        probes = [served.ask("GET", path) for path in ("/readyz", "/healthz")]
        ready, counted = served.metrics()["segpipe_ready"], failures(served)
        code, said = served.end()

    assert (first.status, first.json["detail"]) == (503, "cuLaunch failed. the GPU was lost")
    assert "has to be restarted" in later.json["detail"]
    assert [probe.status for probe in (later, *probes)] == [503, 503, 503]
    assert (ready, counted, code) == (0, 1, 0)
    assert "a picture failed: cuLaunch failed. the GPU was lost" in said
    assert "Traceback" not in said


def test_a_picture_that_never_ends_fails_the_liveness_probe_and_keeps_no_server_from_ending(run: Path) -> None:
    shorter = "from segpipe.serving import server, service; server._LEAVE_S = server._FINISH_S = service.STUCK_S = 1.0"
    with serving(run, before=f"{PLANTED}\n{shorter}") as served, ThreadPoolExecutor() as pool:
        answer = pool.submit(served.segment, picture(40, 47))
        assert served.process.stdout
        assert served.process.stdout.readline() == "begun\n"
        wait_until(lambda: served.ask("GET", "/healthz").status == 503, served.process)
        told, ready = served.ask("GET", "/healthz").json["detail"], served.ask("GET", "/readyz").status
        oldest_s = served.metrics()["segpipe_oldest_seconds"]
        code, said = served.end()
        answer.exception()

    assert "its thread is lost to this process" in told
    assert (ready, code) == (200, 0)
    assert oldest_s > 1
    assert "a picture does not end" in said
