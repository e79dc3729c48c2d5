"""Pretrained weights: what is matched under which prefixes, and what is said about it."""

import logging
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segpipe.errors import ConfigError, InputError
from stages.config.root import ModelConfig
from stages.models import build_network
from stages.models.matching import Target, match
from stages.models.parts import freeze_encoder, parameter_groups
from stages.models.pretrained import load_pretrained
from tests.skipnet_weights import SKIPNET, load, make, refused, same


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
