"""`train.compile = true` with the C++ that PyTorch makes of a network: the weights are those of training without it."""

import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from tests.test_train_options import train

SMALL = ("model.name=tests.test_train_options:with_auxiliary", "model.options={}", "train.epochs=1")
HAS_HEADERS = Path(sysconfig.get_path("include"), "Python.h").is_file()
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not (shutil.which("g++") and HAS_HEADERS), reason="no C++ compiler, or no headers of Python"),
    pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning"),  # PyTorch's, only there
]


def test_a_network_that_is_compiled_trains_as_one_that_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "made"))  # what was made before is not taken
    torch.compiler.reset()

    plain, compiled = (
        load(train(tmp_path / name, *SMALL, f"train.compile={name}").artifact_bytes("train", "model.safetensors"))
        for name in ("false", "true")
    )

    assert [*(tmp_path / "made").rglob("*.so")], "nothing was compiled"
    assert compiled.keys() == plain.keys()
    for name, expected in plain.items():
        np.testing.assert_allclose(compiled[name], expected, rtol=1e-3, atol=1e-5)
