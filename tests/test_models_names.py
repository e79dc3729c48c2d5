"""Networks by name: what is found, what is suggested, what is refused, and what is light."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segpipe.errors import ConfigError
from stages.config.root import ModelConfig
from stages.models import build_network, source_hash
from stages.models.registry import find_factory, known_networks
from tests.test_imports import HEAVY, modules_after

SMALL = ["skipnet", "allconv", "bisenetv2", "torchvision/lraspp_mobilenet_v3_large", "smp/unet/mobilenet_v2"]


def scores_of(config: ModelConfig, channels: int, outputs: int) -> Tensor:
    network = build_network(config, channels, outputs).eval()
    with torch.inference_mode():
        scores: Tensor = network(torch.zeros(1, channels, 64, 96))
    return scores


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's module on the path."""
    path = tmp_path / "their_networks.py"
    path.write_text(
        "from torch import nn\n"
        "def make(channels, classes, depth=1):\n"
        "    layers = [nn.Conv2d(channels, channels, 1) for _ in range(depth - 1)]\n"
        "    return nn.Sequential(*layers, nn.Conv2d(channels, classes, 1))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    sys.modules.pop("their_networks", None)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("channels", "outputs"), [(1, 1), (5, 3)])
def test_any_number_of_channels_goes_in_and_one_score_a_class_comes_out(name: str, channels: int, outputs: int) -> None:
    assert scores_of(ModelConfig(name=name), channels, outputs).shape[1] == outputs


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("skipnt", "did you mean skipnet"),
        ("ddrnet23slim", "did you mean ddrnet23_slim"),
        ("torchvision/fcn_resnet5", "did you mean torchvision/fcn_resnet50"),
        ("torchvision/lraspp", "did you mean torchvision/lraspp_mobilenet_v3_large"),
        ("smp/unett/resnet18", "did you mean smp/unet/resnet18"),
        ("smp/unet", "did you mean smp/unet/"),
        ("quetzalcoatl", "`segpipe models` lists them"),
    ],
)
def test_a_typing_mistake_gets_the_nearest_name(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no network '{name}'.*{said}"):
        find_factory(name)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("smp/unet/resnet19", {}, "there is no encoder 'resnet19'.*resnet18"),
        ("smp/unet/tu-resnet19", {}, "there is no encoder 'tu-resnet19'.*tu-resnet18"),
        ("smp/unet/resnet18", {"classes": 3}, "options.classes is not yours to set.*the data decide"),
        ("smp/unet/resnet18", {"encoder_weights": "imagenet"}, r"use \[model\] weights"),
        ("smp/unet/resnet18", {"decoder_chanels": [8]}, "has no option decoder_chanels.*decoder_channels"),
        ("smp/unet/resnet18", {"decoder_channels": [8, 8]}, "smp/unet/resnet18 cannot be built"),
        ("skipnet", {"depth": 3}, "unexpected keyword argument 'depth'.*width"),
        ("torchvision/lraspp_mobilenet_v3_large", {"auxiliary": True}, "has no auxiliary head"),
    ],
)
def test_options_that_do_not_fit_are_refused(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_network(ModelConfig(name=name, options=options), 3, 2)


def test_every_decoder_of_smp_has_a_name() -> None:
    import segmentation_models_pytorch as smp

    listed = {known.name.split("/")[1] for known in known_networks() if known.name.startswith("smp/")}

    assert listed == set(smp.MODEL_ARCHITECTURES_MAPPING)


def test_stride_follows_the_options() -> None:
    config = ModelConfig(name="smp/fpn/resnet18", options={"upsampling": 2, "encoder_depth": 4})
    network = build_network(config, 3, 2)

    assert network.stride == 2
    assert network.size_multiple == 16


def test_a_network_of_ones_own_takes_keyword_arguments_and_its_source_counts(own_module: Path) -> None:
    config = ModelConfig(name="their_networks:make", options={"depth": 3})
    before = source_hash(config)
    network = build_network(config, 2, 4)
    own_module.write_text(own_module.read_text() + "# changed\n")

    assert len(list(network.children())) == 3
    assert before != source_hash(config)
    assert source_hash(ModelConfig(name="smp/unet/resnet18")) is None


def test_options_a_users_factory_does_not_take_are_told_with_what_it_takes(own_module: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"unexpected keyword argument 'dept'.*it takes \(channels, classes, depth=1\)"
    ):
        build_network(ModelConfig(name="their_networks:make", options={"dept": 3}), 2, 4)


def test_a_type_error_within_a_users_factory_keeps_its_own_words_and_place(own_module: Path) -> None:
    with pytest.raises(TypeError, match="unsupported operand") as caught:
        build_network(ModelConfig(name="their_networks:make", options={"depth": "3"}), 2, 4)

    assert Path(caught.traceback[-1].path) == own_module


def test_every_file_of_the_factorys_package_counts_and_none_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / "their_package/deep/layers.py"
    part.parent.mkdir(parents=True)
    part.write_text("WIDTH = 1\n")
    (tmp_path / "their_package/__init__.py").write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = ModelConfig(name="their_package.networks:make")
    before = source_hash(config)
    part.write_text("WIDTH = 2\n")

    assert before != source_hash(config)
    with pytest.raises(ConfigError, match="cannot be imported"):
        source_hash(ModelConfig(name="their_absent_package:make"))


def test_the_registry_and_its_figures_load_nothing_heavy() -> None:
    loaded = modules_after("from stages.models.catalogue import listed\nassert listed()")

    assert not loaded & (HEAVY | {"timm", "segmentation_models_pytorch"})
