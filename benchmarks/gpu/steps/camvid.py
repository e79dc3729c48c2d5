"""CamVid by the full recipe, the accuracy of its engine beside PyTorch's, and its weights to take home."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import Folders
from benchmarks.gpu.runs import installed_targets
from segpipe.rundir import RunDirectory
from stages.config_file import load_config
from stages.pipeline import Selection, run_stages
from stages.starter import write_starter


def run(folders: Folders) -> dict[str, Any]:
    """Test mIoU by PyTorch, the gate's figures of every hop, and the seconds that training took."""
    data = Path(os.environ.get("SEGPIPE_DATA", "")) / "camvid"
    assert data.is_dir(), "no data: set SEGPIPE_DATA to the folder that holds camvid/"
    path = folders.work / "camvid"
    if not (path / "segpipe.toml").exists():
        write_starter(path, "camvid")
    config = load_config(path, [f"data.root={data}", *installed_targets()])
    started = time.monotonic()
    rundir = run_stages(path, config, path, Selection(last="train"))
    seconds = time.monotonic() - started
    shutil.copy(rundir.artifact("train", "model.safetensors"), folders.out / "camvid.safetensors")
    run_stages(path, config, path, Selection("export", "validate"))
    judged = RunDirectory(path)
    return {
        "test_miou": judged.record("train").figures["test_miou"],
        "train_s": round(seconds, 1),
        "gate": judged.record("validate").figures,
    }
