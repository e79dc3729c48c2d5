"""No engines for a contract that no GPU keeps: build says so in one line, and so does whoever asks for one."""

import logging
from pathlib import Path

import pytest

from segpipe.artifacts import ARTIFACTS
from segpipe.errors import BackendError
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.status import run_status
from segpipe.runtime.opening import _require_target
from stages import import_model
from stages.config.file import load_config
from stages.graphs.reading import to_bytes
from stages.pipeline import Selection, run_stages
from tests.tiny_graphs import plain

CONTRACT = 'classes = ["a", "b", "c", "d"]\nnetwork_size = [16, 24]\nfit = "letterbox"\n'


def imported(tmp_path: Path, more: str) -> Path:
    (tmp_path / "model.onnx").write_bytes(to_bytes(plain()))
    (tmp_path / "contract.toml").write_text(CONTRACT + more)
    run = tmp_path / "run"
    import_model.run(run, tmp_path / "model.onnx", tmp_path / "contract.toml")
    return run


def built(run: Path) -> RunDirectory:
    return run_stages(run, load_config(run / "segpipe.toml"), run, Selection(first="export", last="build"))


@pytest.mark.parametrize(
    ("more", "lacking"), [('resize = "bilinear-8bit"\n', "resize 'bilinear-8bit'"), ("padding = 114\n", "padding 114")]
)
def test_no_engine_is_built_that_no_gpu_would_run(
    more: str, lacking: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = imported(tmp_path, more)

    with caplog.at_level(logging.WARNING):
        found = built(run)

    (said,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("build:")]
    assert said.startswith(f"build: no engines: the contract's {lacking} is done on CPUs only; onnxruntime-cpu, ")
    assert dict(found.record("build").outputs) == {}
    (line,) = [line for line in run_status(found) if line.stage == "build"]
    assert (line.state, line.headline) == ("fresh", "no engines")
    with pytest.raises(BackendError, match=f"tensorrt-rtx: the contract's {lacking} is done on CPUs only"):
        _require_target(found, ARTIFACTS["tensorrt-rtx"])
