"""`segpipe serve --ray-config` on a real Ray Serve: `make ray`. Ray takes its time to start, so all is one story."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from segpipe import Segmenter, testing
from tests.calling import call
from tests.children import child, wait_until
from tests.serving import Served, picture
from tests.test_serve_swap import OTHER, sha256

PYTHON = os.environ.get("SEGPIPE_RAY_SERVE", "")
pytestmark = [pytest.mark.soak, pytest.mark.skipif(not PYTHON, reason="make ray says which Python has Ray Serve")]
CALLERS = 3
BEYOND = 60
"""Callers at once, more than are in work or may wait."""


@contextmanager
def cluster(log: Path) -> Iterator["tuple[subprocess.Popen[str], int]"]:
    """A Ray of ours, and the port of its proxy; nothing of it outlives the test."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="segpipe-ray-", dir="/tmp")
    patience = {"RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300"}
    quiet = patience | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    command = (PYTHON, "-m", "tests.soak.ray_cluster", folder, str(port))
    try:
        with (
            log.open("w") as said,
            child(*command, stdin=subprocess.PIPE, stderr=said.fileno(), env=quiet) as process,
        ):
            try:
                yield process, port
            finally:
                end_all_below(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def end_all_below(folder: str) -> None:
    """Ray's own processes name its folder; those of actors do not, and end with theirs."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if folder.encode() in (place / "cmdline").read_bytes() and int(place.name) != os.getpid():
                os.kill(int(place.name), signal.SIGKILL)


def test_ray_serve_answers_as_one_process_does_and_swaps_without_a_gap(tmp_path: Path) -> None:
    for name, contract, status in (
        ("first", testing.CONTRACT, "passed"),
        ("second", OTHER, "passed"),
        ("failed", testing.CONTRACT, "failed"),
    ):
        testing.make_run(tmp_path / name, contract, status=status)
    file = tmp_path / "serve.yaml"
    answers: Counter[tuple[int, str]] = Counter()
    over = Event()

    log = tmp_path / "ray.log"

    with cluster(log) as (process, port):
        served = Served(process, "127.0.0.1", port)
        code, _, said = call("serve", tmp_path / "first", "--ray-config", file, "--port", str(port))
        assert (code, said) == (0, "")

        def deploy(name: str) -> None:
            text = file.read_text().replace(str(tmp_path / "first"), str(tmp_path / name))
            (tmp_path / f"{name}.yaml").write_text(text)
            assert process.stdin
            assert process.stdout
            process.stdin.write(f"{tmp_path / name}.yaml\n")
            process.stdin.flush()
            assert process.stdout.readline().strip() == f"{tmp_path / name}.yaml", log.read_text()[-2000:]

        def is_ready() -> bool:
            with suppress(OSError):
                return served.ask("GET", "/readyz").status == 200
            return False

        def ask() -> None:
            while not over.is_set():
                answer = served.segment(picture())
                answers[answer.status, answer.headers.get("x-segpipe-artifact", "")] += 1

        def last_reload() -> dict[str, str]:
            return served.ask("GET", "/model").json["last_reload"] or {}

        deploy("first")
        wait_until(is_ready, process)
        first = served.segment(picture())
        with ThreadPoolExecutor(CALLERS) as pool:
            asking = [pool.submit(ask) for _ in range(CALLERS)]
            try:
                wait_until(lambda: answers[200, sha256(tmp_path / "first")] > 50, process)
                deploy("second")
                wait_until(lambda: answers[200, sha256(tmp_path / "second")] > 50, process)
                deploy("failed")
                wait_until(lambda: last_reload()["outcome"] == "refused", process)
                so_far = answers[200, sha256(tmp_path / "second")]
                wait_until(lambda: answers[200, sha256(tmp_path / "second")] > so_far + 50, process)
            finally:
                over.set()
        for one in asking:
            one.result()
        refused = served.ask("GET", "/model").json
        large = picture(2400, 3200)  # that takes a replica longer than a client needs to send it
        with ThreadPoolExecutor(BEYOND) as pool:
            crowd = [*pool.map(lambda _: served.segment(large), range(BEYOND))]

    with Segmenter.open(tmp_path / "first") as segmenter:
        np.testing.assert_array_equal(first.mask, segmenter(picture()))
    assert first.headers["x-segpipe-mask"] == "uint8 40x60"
    print(dict(answers), Counter(answer.status for answer in crowd))
    assert {*answers} == {(200, sha256(tmp_path / name)) for name in ("first", "second")}
    assert refused["run"] == str(tmp_path / "second")
    assert "was judged: failed" in refused["last_reload"]["reason"]
    assert {answer.status for answer in crowd} == {200, 429}
    assert all(answer.headers["retry-after"] == "1" for answer in crowd if answer.status == 429)
