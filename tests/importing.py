"""Somebody else's ONNX and its contract, on disk and imported."""

from pathlib import Path
from typing import Any

import onnx
import tomli_w

from segpipe.rundir.directory import RunDirectory
from stages import import_model
from stages.graphs.adopting import adopt
from stages.graphs.reading import complete, parse

CLASSES = ("background", "disc", "box", "triangle")
CONTRACT = {
    "classes": list(CLASSES), "network_size": [16, 24], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
}  # fmt: skip


def write(folder: Path, model: onnx.ModelProto | bytes, **changes: Any) -> tuple[Path, Path]:
    """model.onnx and contract.toml."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    content = {key: value for key, value in (CONTRACT | changes).items() if value is not None}
    (folder / "contract.toml").write_text(tomli_w.dumps(content), encoding="utf-8")
    return folder / "model.onnx", folder / "contract.toml"


def imported(folder: Path, model: onnx.ModelProto | bytes, **changes: Any) -> RunDirectory:
    import_model.run(folder / "run", *write(folder, model, **changes))
    return RunDirectory(folder / "run")


def adopted_here(folder: Path, model: onnx.ModelProto, **changes: Any) -> onnx.ModelProto:
    """What import would store, without a process of its own: quick."""
    return adopted_from(*write(folder, model, **changes))


def adopted_from(model: Path, contract: Path) -> onnx.ModelProto:
    """As `adopted_here`, of files that are there."""
    return adopt(complete(parse(model), model), import_model.read_description(contract).contract, str(model))
