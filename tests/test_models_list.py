"""`segpipe models`: what it lists, and that the committed figures are true."""

import json

import pytest
import torch

from stages.config.root import ModelConfig
from stages.models import build_network, registry
from stages.models.catalogue import listed
from stages.models.measure import measure
from stages.models.registry import ABILITIES, known_networks
from tests.calling import call
from tests.children import ROOT
from tests.network_checks import Subject, check_stride, vars_of


def test_every_listed_network_has_figures_and_says_what_it_can() -> None:
    code, out, _ = call("models", "--json")
    lines = json.loads(out)

    assert code == 0
    assert [line["name"] for line in lines] == [known.name for known in known_networks()]
    assert all(set(line["can"]) | set(line["cannot"]) == set(ABILITIES) for line in lines)
    assert all(line["gflops"] > 0 and line["parameters"] > 0 for line in lines)


def test_the_table_names_networks_and_what_they_cannot_do() -> None:
    code, out, _ = call("models")

    assert code == 0
    assert "ddrnet23_slim" in out
    assert "batch of one" in out


@pytest.mark.parametrize("name", registry._OWN)
def test_a_network_of_ours_is_named_where_people_choose_one(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs/how-to/networks.md").read_text()


@pytest.mark.parametrize("name", [*registry._OWN, "torchvision/lraspp_mobilenet_v3_large"])
def test_committed_figures_are_those_measured(name: str) -> None:
    committed = next(line.figures for line in listed() if line.known.title == name)

    assert committed == measure(ModelConfig(name=name))


@pytest.mark.parametrize("name", registry._OWN)
def test_a_network_of_ours_takes_its_smallest_input(name: str) -> None:
    config = ModelConfig(name=name)
    torch.manual_seed(0)
    network = build_network(config, 3, 4).eval()
    multiple = vars_of(network)[1]

    check_stride(Subject(config, network, ((multiple, multiple), (multiple, 2 * multiple))))


def test_a_network_without_figures_is_named_with_what_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._OWN, "newnet", ("stages.models.skipnet:SkipNet", "new", {}))
    code, _, err = call("models")

    assert code == 1
    assert "newnet" in err
    assert "python -m benchmarks.networks --one 'newnet'" in err


def test_any_network_can_be_measured_by_name() -> None:
    code, out, _ = call("models", "smp/fpn/mobilenet_v2", "--json")
    (line,) = json.loads(out)

    assert code == 0
    assert (line["name"], line["stride"], line["gflops_size"]) == ("smp/fpn/mobilenet_v2", 4, [512, 1024])


def test_a_wrong_name_is_one_line_with_the_nearest() -> None:
    code, _, err = call("models", "skipnett")

    assert code == 1
    assert "did you mean skipnet" in err
