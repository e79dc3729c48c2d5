"""Pretrained weights: what is matched under which prefixes, what is refused, and what is said about it."""

import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from segpipe.errors import ConfigError, InputError
from stages.config.root import ModelConfig
from stages.models import build_network, weights_hash
from stages.models.matching import Target, match
from stages.models.parts import freeze_encoder, parameter_groups
from stages.models.pretrained import MatchReport, load_pretrained, read_weights
from tests.test_imports import HEAVY, modules_after

SKIPNET = ModelConfig(options={"width": 4})


def make(seed: int = 0, channels: int = 3, outputs: int = 4, config: ModelConfig = SKIPNET) -> nn.Module:
    torch.manual_seed(seed)
    return build_network(config, channels, outputs)


def load(network: nn.Module, path: Path, channels: int = 3, config: ModelConfig = SKIPNET) -> MatchReport:
    found = load_pretrained(network, config.model_copy(update={"weights": path.name}), path.parent, channels)
    assert found is not None
    return found


def refused(path: Path, network: nn.Module) -> str:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load(network, path)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    return str(caught.value)


def same(ours: nn.Module, theirs: nn.Module, parts: tuple[str, ...]) -> bool:
    mine, yours = ours.state_dict(), theirs.state_dict()
    return all(torch.equal(mine[key], yours[key]) for key in mine if key.startswith(parts))


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "_orig_mod."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_whole_networks_load_under_any_wrapper(tmp_path: Path, prefix: str, suffix: str) -> None:
    donor, network = make(1), make(2)
    state = {prefix + key: value for key, value in donor.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    _save(path, state)
    report = load(network, path)

    assert same(network, donor, ("",))
    assert (report.matched, report.total, report.random) == (len(state), len(state), ())


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_checkpoints_of_training_loops_are_unwrapped(tmp_path: Path, key: str) -> None:
    donor, network = make(1), make(2)
    torch.save({key: donor.state_dict(), "epoch": 3}, tmp_path / "last.pth")
    load(network, tmp_path / "last.pth")

    assert same(network, donor, ("",))


def test_another_number_of_classes_leaves_only_the_classifier_random(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    donor, network = make(1, outputs=21), make(2, outputs=4)
    torch.save(donor.state_dict(), tmp_path / "voc.pth")
    with caplog.at_level(logging.INFO, "stages.models.pretrained"):
        report = load(network, tmp_path / "voc.pth")

    assert report.random == ("head.weight", "head.bias")
    assert same(network, donor, ("stem", "down", "up"))
    assert "from voc.pth; random: head" in caplog.text


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_rgb_filters_are_fitted_to_other_channels(tmp_path: Path, channels: int) -> None:
    donor, network = make(1), make(2, channels=channels)
    torch.save(donor.state_dict(), tmp_path / "rgb.pth")
    report = load(network, tmp_path / "rgb.pth", channels)
    grey = torch.rand(1, 1, 8, 8)
    first, theirs = network.get_submodule("stem.0"), donor.get_submodule("stem.0")

    assert report.adapted == ("stem.0.weight",)
    if channels == 1:  # a grey picture looks to the new network as it looked to the old one
        torch.testing.assert_close(first(grey), theirs(grey.expand(-1, 3, -1, -1)))


def test_an_encoder_fills_the_encoder_only(tmp_path: Path) -> None:
    config = ModelConfig(name="smp/unet/resnet18")
    donor, network = make(1, config=config), make(2, config=config)
    untouched = network.get_submodule("decoder").state_dict()
    expected = {key: value.clone() for key, value in untouched.items()}
    state = dict(donor.get_submodule("encoder").state_dict())
    state |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "resnet18.pth")
    report = load(network, tmp_path / "resnet18.pth", config=config)

    assert same(network, donor, ("encoder",))
    assert all(torch.equal(expected[key], value) for key, value in untouched.items())
    assert set(report.unused) == {"fc.weight", "fc.bias"}
    assert not any(key.startswith("encoder") for key in report.random)


def test_torchvision_features_find_segnets_encoder() -> None:
    own = build_network(ModelConfig(name="segnet", options={"width": 16}), 3, 2)
    shapes = {key: tuple(value.shape) for key, value in own.state_dict().items()}
    file = {key.replace("encoder.", "features."): shape for key, shape in shapes.items() if key.startswith("encoder")}
    found = match({**file, "classifier.0.weight": (10, 10)}, Target(shapes, ("encoder",), ("head",)), "vgg.pth")

    assert set(found.taken) == {key for key in shapes if key.startswith("encoder")}
    assert found.unused == ("classifier.0.weight",)


def test_a_missing_layer_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    state = {key: value for key, value in make(1).state_dict().items() if not key.startswith("down3.0.")}
    torch.save(state, tmp_path / "torn.pth")
    said = refused(tmp_path / "torn.pth", make(2))

    assert "1 missing, 0 of another shape" in said
    assert "down3.0.weight [32, 16, 3, 3]" in said
    assert "take the weights of the same architecture" in said


def test_another_width_is_refused_with_both_shapes(tmp_path: Path) -> None:
    state = make(1).state_dict()
    state["up1.0.weight"] = torch.zeros(16, 99, 3, 3)
    torch.save(state, tmp_path / "other.pth")

    assert "up1.0.weight [16, 99, 3, 3], wanted [16, 24, 3, 3]" in refused(tmp_path / "other.pth", make(2))


def test_a_deeper_encoder_is_another_encoder() -> None:
    shapes = {"encoder.layer1.0.weight": (4, 4), "encoder.layer2.0.weight": (4, 4), "head.weight": (2, 4)}
    file = {"layer1.0.weight": (4, 4), "layer1.1.weight": (4, 4), "layer2.0.weight": (4, 4)}

    with pytest.raises(InputError, match=r"1 unknown; unknown: layer1\.1\.weight"):
        match(file, Target(shapes, ("encoder",), ("head",)), "resnet34.pth")
    assert match(file, Target(shapes, ("encoder",), ("head",), encoder_is_cut=True), "x").unused


def test_weights_of_another_architecture_fit_nothing(tmp_path: Path) -> None:
    torch.save({"blocks.0.weight": torch.zeros(7, 7)}, tmp_path / "vit.pth")

    assert "the keys of vit.pth fit no layer of this network; blocks.0.weight [7, 7]" in refused(
        tmp_path / "vit.pth", make()
    )


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
        read_weights(tmp_path / "odd.pth")
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
            assert all(isinstance(tensor, Tensor) for tensor in read_weights(path).values())


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(make(), tmp_path / "module.pth")  # a whole module, not its weights

    assert "cannot be read as weights" in refused(tmp_path / "module.pth", make())


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        ("skipnet", "imagenet", "nobody publishes 'imagenet' for skipnet"),
        ("torchvision/fcn_resnet50", "imagenett", "torchvision has no 'imagenett' for resnet50.*IMAGENET1K_V1"),
        ("smp/unet/resnet18", "places", "'places' is not published for the encoder resnet18.*imagenet"),
        ("skipnet", "nowhere.pth", "nowhere.pth does not exist"),
    ],
)
def test_weights_that_nobody_has_are_refused(name: str, weights: str, said: str, tmp_path: Path) -> None:
    config = ModelConfig(name=name, weights=weights)

    with pytest.raises(ConfigError, match=said):
        load_pretrained(make(config=ModelConfig(name=name)), config, tmp_path, 3)


def test_torchvisions_own_loader_fills_the_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    config = ModelConfig(name="torchvision/lraspp_mobilenet_v3_large", weights="imagenet")
    donor = torchvision.models.mobilenet_v3_large(weights=None)
    url = torchvision.models.MobileNet_V3_Large_Weights.IMAGENET1K_V1.url
    cached = tmp_path / "hub/checkpoints" / url.rpartition("/")[2]  # where its loader keeps what it downloaded
    cached.parent.mkdir(parents=True)
    torch.save(donor.state_dict(), cached)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = make(config=config)
    report = load_pretrained(network, config, tmp_path, 3)

    assert report is not None
    assert torch.equal(network.get_parameter("backbone.0.0.weight"), donor.get_parameter("features.0.0.weight"))
    assert not any(key.startswith("backbone") for key in report.random)


def test_no_weights_means_no_report(tmp_path: Path) -> None:
    assert load_pretrained(make(), SKIPNET, tmp_path, 3) is None


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


def test_groups_split_every_parameter_and_freezing_stops_the_encoder() -> None:
    network = make()
    groups = parameter_groups(network)
    statistics = network.get_buffer("stem.1.running_mean").clone()
    freeze_encoder(network.train())
    network(torch.rand(2, 3, 32, 32)).sum().backward()

    assert len(groups.encoder) + len(groups.decoder) == len(list(network.parameters()))
    assert all(parameter.grad is None for parameter in groups.encoder)
    assert all(parameter.grad is not None for parameter in groups.decoder)
    assert torch.equal(network.get_buffer("stem.1.running_mean"), statistics)


def test_a_network_that_names_no_encoder_cannot_be_frozen() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1))

    assert parameter_groups(network).encoder == []
    with pytest.raises(ConfigError, match="encoder_parts"):
        freeze_encoder(network)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("smp/unet/mobilenet_v2", "mobilenet_v2_imagenet_tv_features.pth"),
        ("smp/unet/tu-tf_efficientnet_lite0", "efficientnet_lite0_timm.pth"),
    ],
)
def test_real_imagenet_weights_fill_the_encoder(name: str, file: str) -> None:
    root = os.environ.get("SEGPIPE_DATA")
    path = Path(root or "") / "backbones" / file
    if not root or not path.exists():
        pytest.skip(f"SEGPIPE_DATA names no folder with backbones/{file}")
    config = ModelConfig(name=name)
    report = load(make(config=config), path, config=config)

    assert report.matched > 200
    assert not any(key.startswith("encoder") for key in report.random)


def _save(path: Path, state: dict[str, Tensor]) -> None:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


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
