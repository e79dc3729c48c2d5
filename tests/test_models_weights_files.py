"""Files of weights: which are read, under which wrappers, and which are refused with their reason."""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from segpipe.errors import ConfigError, InputError
from stages.config.root import ModelConfig
from stages.models import weights_hash
from stages.models.weights_files import read_weights
from tests.skipnet_weights import load, make, refused, same
from tests.test_imports import HEAVY, modules_after


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04torn"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"torn{suffix}"
    path.write_bytes(content)

    assert "cannot be read as weights" in refused(path, make())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.zeros(2)], "holds a list, wanted names and tensors"),
        (torch.zeros(2), "holds a Tensor, wanted names and tensors"),
        ({"state_dict": [1]}, "holds no tensors by name"),
        ({3: torch.zeros(2)}, "holds no tensors by name"),
        ({}, "holds no tensors by name"),
    ],
)
def test_files_without_named_tensors_are_refused(content: object, said: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pth")

    with pytest.raises(InputError) as caught:
        read_weights(tmp_path / "odd.pth", "[model] weights")
    assert said in caught.value.message
    assert "save a state_dict" in caught.value.hint


@pytest.mark.parametrize(("make", "said"), [(Path.mkdir, "is a folder"), (lambda path: None, "does not exist")])
def test_what_is_no_file_is_named(make: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    make(tmp_path / "w.pth")

    with pytest.raises(ConfigError, match=rf"w\.pth {said}\. name a file"):
        weights_hash(ModelConfig(weights="w.pth"), tmp_path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")  # a damaged byte may claim another one
@settings(max_examples=60)
@given(data=st.data())
def test_damaged_pickles_are_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "torn.pth")
        torch.save(
            {"a": torch.zeros(3), "b": torch.ones(2)}, path, _use_new_zipfile_serialization=data.draw(st.booleans())
        )
        content = bytearray(path.read_bytes())
        for place, value in data.draw(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4)):
            content[place % len(content)] = value
        path.write_bytes(content)

        with suppress(InputError):
            assert all(isinstance(tensor, Tensor) for tensor in read_weights(path, "[model] weights").tensors.values())


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(make(), tmp_path / "module.pth")  # a whole module, not its weights

    assert "cannot be read as weights" in refused(tmp_path / "module.pth", make())


def test_the_files_hash_is_known_without_torch(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"1")
    (tmp_path / "b.pth").write_bytes(b"2")
    hashes = [weights_hash(ModelConfig(weights=name), tmp_path) for name in ("a.pth", "b.pth", "imagenet", "")]

    assert hashes[0] != hashes[1]
    assert hashes[2:] == [None, None]
    call = (
        "from pathlib import Path\nfrom stages.config.root import ModelConfig\nfrom stages.models import weights_hash\n"
    )
    assert not modules_after(call + "weights_hash(ModelConfig(), Path())") & HEAVY


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value.to(torch.int32), "is torch.int32, the network's is torch.float32"),
        (lambda value: value.to(torch.complex64), "is torch.complex64, the network's is torch.float32"),
        (lambda value: value.to_sparse(), "in layout torch.sparse_coo, wanted a dense tensor"),
        (lambda value: value.to("meta"), "has no values"),
        (lambda value: value * float("nan"), "holds NaN"),
    ],
    ids=["integers", "complex", "sparse", "meta", "NaN"],
)
def test_tensors_that_are_no_weights_are_refused_by_name(
    change: Callable[[Tensor], Tensor], said: str, tmp_path: Path
) -> None:
    state = make(1).state_dict()
    key = next(key for key, value in state.items() if value.ndim == 4)
    torch.save(state | {key: change(state[key])}, tmp_path / "odd.pth")

    message = refused(tmp_path / "odd.pth", make(2))

    assert f"'{key}' of odd.pth" in message
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize("wrap", [lambda s: {"model": {"state_dict": s}}, lambda s: {"params_ema": s, "params": {}}])
def test_weights_are_found_where_training_loops_put_them(wrap: Callable[[object], object], tmp_path: Path) -> None:
    donor, network = make(1), make(2)
    torch.save(wrap(donor.state_dict()), tmp_path / "last.pth")
    load(network, tmp_path / "last.pth")

    assert same(network, donor, ("",))


def test_safetensors_are_read_under_any_name(tmp_path: Path) -> None:
    donor, network = make(1), make(2)
    save_file(donor.state_dict(), tmp_path / "renamed.pth")
    load(network, tmp_path / "renamed.pth")

    assert same(network, donor, ("",))


def test_a_refused_file_is_told_without_the_colours_of_a_terminal(tmp_path: Path) -> None:
    torch.save(make(1), tmp_path / "whole.pth")

    assert "\x1b" not in refused(tmp_path / "whole.pth", make(2))
