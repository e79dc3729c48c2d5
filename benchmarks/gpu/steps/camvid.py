"""CamVid by the full recipe, the accuracy of its engine beside PyTorch's, and the network to take home."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import Folders
from benchmarks.gpu.runs import build_settings, judged
from stages.config.file import FILE_NAME, load_config
from stages.pipeline import Selection, run_stages

RECIPE = Path(__file__).parents[1] / "camvid.toml"
_BACKBONE = "efficientnet_lite0_timm.pth"


def run(folders: Folders) -> Iterator[dict[str, Any]]:
    """Test mIoU by PyTorch, the seconds that training took in this call, and the gate's figures of every hop."""
    data = Path(os.environ.get("SEGPIPE_DATA", ""))
    backbone = (data / "backbones" / _BACKBONE).resolve()
    assert (data / "camvid").is_dir(), "no data: set SEGPIPE_DATA to the folder that holds camvid/ and backbones/"
    path = folders.work / "camvid"
    path.mkdir(parents=True, exist_ok=True)
    shutil.copy(RECIPE, path / FILE_NAME)
    settings = [f"data.root={(data / 'camvid').resolve()}", *build_settings(folders)]
    config = load_config(path, [*settings, *([f"model.weights={backbone}"] if backbone.is_file() else [])])
    started = time.monotonic()
    figures = dict(run_stages(path, config, path, Selection(last="train")).record("train").figures)
    figures |= {"train_s": round(time.monotonic() - started, 1), "pretrained": backbone.is_file()}
    yield figures
    rundir = run_stages(path, config, path, Selection("export", "build"))
    shutil.copy(rundir.artifact("export", "model.fp16.onnx"), folders.out / "camvid.fp16.onnx")
    figures["build"] = rundir.record("build").figures
    yield figures
    passed, figures["gate"] = judged(path, config)
    yield figures
    assert passed, "the release gate failed"
