"""A model takes over from another without a gap, and one that is refused leaves the old one serving."""

import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from segpipe import testing
from segpipe.errors import InputError
from segpipe.rundir.directory import RunDirectory
from segpipe.serving import memory
from segpipe.serving.models import BusyError, Models, Source
from tests.children import wait_until
from tests.serving import BEARER, Served, picture, serving, token_file

OTHER = testing.CONTRACT.model_copy(update={"classes": ("night", "rose", "leaf", "sky")})


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    """A folder with two runs that passed, one that failed, and `current`, a link to the first."""
    testing.make_run(tmp_path / "first")
    testing.make_run(tmp_path / "second", OTHER)
    testing.make_run(tmp_path / "failed", OTHER, status="failed")
    lead(tmp_path, "first")
    return tmp_path


def lead(folder: Path, name: str) -> None:
    """Let `current` lead to it, at once."""
    (folder / "new").symlink_to(name)
    (folder / "new").replace(folder / "current")


def sha256(run: Path) -> str:
    return RunDirectory(run).recorded("export", "model.onnx").sha256


@contextmanager
def load(served: Served) -> Iterator[Counter[tuple[int, str]]]:
    """Requests one after the other by three threads; counts status and artifact of what came back."""
    answers: Counter[tuple[int, str]] = Counter()
    over = Event()

    def ask() -> None:
        while not over.is_set():
            answer = served.segment(picture())
            answers[answer.status, answer.headers["x-segpipe-artifact"]] += 1

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            yield answers
        finally:
            over.set()
    for one in asking:
        one.result()


def test_under_load_a_new_model_takes_over_and_a_refused_one_does_not(bundles: Path) -> None:
    first, second = sha256(bundles / "first"), sha256(bundles / "second")
    with serving(bundles / "current", "--token-file", token_file(bundles)) as served, load(served) as answers:
        wait_until(lambda: answers[200, first] > 0)
        lead(bundles, "second")
        taken = served.ask("POST", "/reload", headers=BEARER)
        wait_until(lambda: answers[200, second] > 0)
        lead(bundles, "failed")
        refused = served.ask("POST", "/reload", headers=BEARER)
        served.process.send_signal(signal.SIGHUP)
        name = 'segpipe_reloads_total{outcome="refused"}'
        wait_until(lambda: served.metrics()[name] == 2)
        told, metrics = served.ask("GET", "/model", headers=BEARER).json, served.metrics()
        so_far = answers[200, second]
        wait_until(lambda: answers[200, second] > so_far)

    assert (taken.status, taken.json["artifact_sha256"]) == (200, second)
    assert taken.json["contract"]["classes"] == [*OTHER.classes]
    assert refused.status == 422
    assert "was judged: failed" in refused.json["detail"]
    assert told["artifact_sha256"] == second
    assert told["last_reload"]["outcome"] == "refused"
    assert told["last_reload"]["reason"] == refused.json["detail"]
    assert told["last_reload"]["asked_by"] == "SIGHUP"
    assert metrics['segpipe_reloads_total{outcome="accepted"}'] == 1
    assert {*answers} == {(200, first), (200, second)}


def test_a_watched_link_is_followed_and_sigterm_loses_nothing_that_is_in_work(bundles: Path) -> None:
    hurry = "from segpipe.serving import server\nserver._WATCH_S = 0.05"
    with serving(bundles / "current", "--watch", before=hurry) as served:
        lead(bundles, "second")
        wait_until(lambda: served.segment(picture()).headers["x-segpipe-artifact"] == sha256(bundles / "second"))
        forbidden = served.ask("POST", "/reload")

        with ThreadPoolExecutor(8) as pool:
            large = picture(800, 1000)
            asked = [pool.submit(served.segment, large) for _ in range(8)]
            wait_until(lambda: served.metrics()["segpipe_connections"] > 1)
            wait_until(lambda: all(one.running() or one.done() for one in asked))
            code, said = served.end()

    assert forbidden.status == 403
    assert {one.result().status for one in asked} == {200}
    assert (code, "Traceback" in said) == (0, False)


@pytest.fixture
def models(bundles: Path) -> Iterator[Models]:
    found = Models(Source(bundles / "current"))
    found.open()
    yield found
    found.close()


def test_an_answer_ends_with_the_model_that_it_began_with(bundles: Path, models: Models) -> None:
    with models.lease() as old:
        lead(bundles, "second")
        assert models.reload("a test").outcome == "accepted"
        still: Any = old.segmenter(picture())
        with models.lease() as new:
            assert new.segmenter.contract == OTHER

    assert still.shape == (40, 60)
    with pytest.raises(InputError, match="this segmenter is closed"):
        old.segmenter(picture())


def test_two_models_must_fit_into_memory(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 0)

    done = models.reload("a test")

    assert done.outcome == "refused"
    assert "0 MiB are free" in done.reason
    assert models.current is not None


def test_a_container_limits_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("900\n")
    unlimited = memory.free_bytes()
    (tmp_path / "memory.max").write_text("1000\n")

    assert memory.free_bytes() == 100
    assert unlimited
    assert unlimited > 100


def test_one_reload_at_a_time(models: Models) -> None:
    with models._reloading, pytest.raises(BusyError, match="a reload is under way"):
        models.reload("a test")


@pytest.mark.parametrize("harm", ["gone", "no manifest", "damaged"])
def test_whatever_is_wrong_with_the_new_one_the_old_one_serves(bundles: Path, models: Models, harm: str) -> None:
    before = models.artifact
    lead(bundles, "second" if harm != "gone" else "nowhere")
    if harm == "no manifest":
        (bundles / "second/manifest.json").unlink()
    if harm == "damaged":
        RunDirectory(bundles / "second").artifact("export", "model.onnx").write_bytes(b"x")

    was_behind = models.is_behind
    done = models.reload("a test")

    assert done.outcome == "refused"
    assert (was_behind, models.is_behind) == (True, False)
    assert models.artifact == before
