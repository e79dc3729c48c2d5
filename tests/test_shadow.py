"""The shadow: a share of frames is answered by the reference too, and what differs is counted, logged and told."""

import logging
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segpipe import Outputs, Segmenter, artifacts, testing
from segpipe.errors import InputError
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.manifest import Manifest
from segpipe.runtime.shadow import Limits, Shadow, ShadowReport, limits_of
from stages.config.root import Limits as GateLimits
from tests import half_rows
from tests.children import wait_until
from tests.half_rows import ROW, make_run
from tests.serving import picture, serving

FRAME, MASK = np.zeros((10, 100, 3), np.uint8), np.zeros((10, 100), np.uint8)


@pytest.fixture
def second_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(artifacts.ARTIFACTS, ROW.name, ROW)
    monkeypatch.setattr(artifacts, "_ROWS", (*artifacts._ROWS, ROW))


def flipping(pixels: int) -> Any:
    """A reference that differs in so many pixels."""

    def reference(frame: NDArray[Any]) -> NDArray[Any]:
        mask = np.zeros(frame.shape[:2], np.uint8)
        mask.reshape(-1)[:pixels] = 1
        return mask

    return reference


def seen(shadow: Shadow, frames: int) -> ShadowReport:
    """What it reports after so many frames, one after the other."""
    for _ in range(frames):
        shadow.offer(FRAME, MASK)
        wait_until(lambda: shadow._thread is None)
    return shadow.report


@pytest.mark.usefixtures("second_row")
def test_a_planted_wrong_artifact_is_seen_and_an_honest_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reports: dict[str, ShadowReport | None] = {}
    for name, scale in (("planted", -1.0), ("honest", 1.0)):
        run = make_run(tmp_path / name, scale)
        with Segmenter.open(run, ROW.name, shadow=1.0) as segmenter:
            segmenter(testing.make_frame(80, 120)[0])
        reports[name] = segmenter.shadow_report

    assert reports["honest"] == ShadowReport(frames=1, pixels=9600)
    assert reports["planted"]
    assert (reports["planted"].beyond, reports["planted"].drifting) == (1, True)
    (line,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert line.getMessage().startswith("shadow: drift: of the last 1 frames")


def test_the_reference_is_no_artifact_to_shadow(run: Path) -> None:
    with pytest.raises(InputError, match=r"export/model\.onnx, the reference itself"):
        Segmenter.open(run, "onnxruntime-cpu", shadow=0.5)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), True, "1"])
def test_a_share_is_from_0_to_1(run: Path, share: Any) -> None:
    with pytest.raises(InputError, match="shadow is"):
        Segmenter.open(run, shadow=share)


def test_without_a_shadow_there_is_no_report(run: Path) -> None:
    with Segmenter.open(run) as segmenter:
        assert segmenter.shadow_report is None


@pytest.mark.usefixtures("second_row")
def test_only_masks_of_the_frames_own_size_are_compared(tmp_path: Path) -> None:
    with Segmenter.open(make_run(tmp_path / "run"), ROW.name, shadow=1.0) as segmenter:
        segmenter.detail(testing.make_frame(40, 60)[0], Outputs(at_network_size=True))

        assert segmenter.shadow_report == ShadowReport()


def test_one_frame_at_a_time_and_the_rest_is_dropped() -> None:
    begun, end = Event(), Event()

    def waits(frame: NDArray[Any]) -> NDArray[Any]:
        begun.set()
        end.wait()
        return frame[:, :, 0]

    shadow = Shadow(waits, 1.0, Limits())
    shadow.offer(FRAME, MASK)
    begun.wait()
    shadow.offer(FRAME, MASK)
    end.set()
    shadow.close()
    shadow.offer(FRAME, MASK)

    assert shadow.report == ShadowReport(frames=1, pixels=1000, dropped=1)


def test_what_the_caller_writes_into_its_arrays_changes_no_comparison() -> None:
    frame, mask, end = FRAME.copy(), MASK.copy(), Event()

    def waits(given: NDArray[Any]) -> NDArray[Any]:
        end.wait()
        return given[:, :, 0]

    shadow = Shadow(waits, 1.0, Limits())
    shadow.offer(frame, mask)
    frame[:], mask[:] = 1, 2
    end.set()
    shadow.close()

    assert shadow.report == ShadowReport(frames=1, pixels=1000)


def test_a_reference_that_fails_is_counted() -> None:
    def fails(_: NDArray[Any]) -> NDArray[Any]:
        raise ZeroDivisionError("on purpose")

    shadow = Shadow(fails, 1.0, Limits())

    assert seen(shadow, 2) == ShadowReport(failed=2)


def test_many_small_differences_are_drift_once_there_are_enough_frames() -> None:
    shadow = Shadow(flipping(10), 1.0, Limits(min_agreement=0.995, min_image_agreement=0.97))

    few, enough = seen(shadow, 19).drifting, seen(shadow, 1).drifting

    assert (few, enough) == (False, True)
    assert shadow.report.beyond == 0


def test_differences_within_the_gates_limits_are_no_drift() -> None:
    assert not seen(Shadow(flipping(5), 1.0, Limits()), 25).drifting


def test_a_share_of_the_frames_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    shadow = Shadow(flipping(0), 0.25, Limits())
    for at in (0.0, 0.2, 0.25, 0.9):
        monkeypatch.setattr("random.random", lambda at=at: at)
        shadow.offer(FRAME, MASK)
        if shadow._thread:
            wait_until(lambda: shadow._thread is None)

    assert shadow.report.frames == 2


def test_the_limits_are_those_of_the_gate(run: Path) -> None:
    from stages.config.root import Limits as GateLimits

    gates = GateLimits()
    assert Limits() == Limits(min_agreement=gates.min_agreement, min_image_agreement=gates.min_image_agreement)
    manifest = RunDirectory(run).manifest
    manifest.stages["validate"].params["validate"] = {"limits": {"min_agreement": 0.9}}
    assert limits_of(manifest).min_agreement == 0.9
    manifest.stages["validate"].params["validate"] = {"limits": "none"}
    assert limits_of(manifest) == limits_of(Manifest()) == Limits()


@pytest.fixture
def planted(tmp_path: Path) -> Iterator[Any]:
    options = (make_run(tmp_path / "run", -1.0), "--backend", ROW.name, "--shadow", "1")
    with serving(*options, before=f"from {half_rows.__name__} import add_row\nadd_row()") as server:
        yield server


def test_serve_tells_of_a_planted_wrong_artifact(planted: Any) -> None:
    sha256 = planted.segment(picture()).headers["x-segpipe-artifact"]
    drift = f'segpipe_shadow_drift{{artifact="{sha256}"}}'
    wait_until(lambda: planted.metrics()[drift] == 1)
    metrics, told = planted.metrics(), planted.ask("GET", "/model").json["shadow"]
    code, said = planted.end()

    assert metrics[f'segpipe_shadow_flips_total{{artifact="{sha256}"}}'] == told["flips"] > 0
    assert code == 0
    assert "shadow: drift: of the last 1 frames" in said


def test_the_limits_of_a_run_that_was_told_none_are_the_gates() -> None:
    assert Limits().model_dump().items() <= GateLimits().model_dump().items()
