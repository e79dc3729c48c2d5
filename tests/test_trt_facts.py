"""Our sources against facts of the TensorRT versions they claim to support, most of which cannot be installed here."""

import re
from pathlib import Path

import pytest

from tests.trt_conformance import FOLDER, all_facts, problems, uses

SOURCES = sorted((Path(__file__).parents[1] / "segpipe/runtime/trt").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_attribute_exists_in_every_version(path: Path) -> None:
    assert problems(path.read_text()) == []


def test_the_reader_recognises_what_runs_engines() -> None:
    found = uses(next(path for path in SOURCES if path.name == "running.py").read_text())

    wanted = {
        ("<module>", "Runtime"),
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "get_tensor_profile_shape"),
        ("IExecutionContext", "execute_async_v3"),
        ("IRuntimeConfig", "cuda_graph_strategy"),
    }
    assert wanted <= found


PLANTED = {
    "a flag that 11 dropped": ("config.set_flag(trt.BuilderFlag.FP16)", r"BuilderFlag\.FP16 is not in tensorrt 11"),
    "a flag RTX never had": ("trt.BuilderFlag.INT8", r"BuilderFlag\.INT8 is not in tensorrt-rtx"),
    "a removed method": ("trt.Builder(x).platform_has_fast_fp16", r"platform_has_fast_fp16 is not in tensorrt 11"),
    "a removed property": ("def f(engine): engine.device_memory_size", r"ICudaEngine\.device_memory_size is not in"),
    "a misspelling": ("def f(context):\n  context.execute_async_v4(0)", r"execute_async_v4 is not in tensorrt 10\.13"),
    "an inferred object's": ("n = trt.Builder(x).create_network(0)\nn.num_layer", r"INetworkDefinition\.num_layer is"),
    "a tuple's": ("e, f = trt.Runtime(x).deserialize_cuda_engine(y), 1\ne.nothing", r"ICudaEngine\.nothing is not in"),
    "a class": ("trt.Int8Calibrator", r"Int8Calibrator is not in tensorrt 10"),
    "RTX's own outside its branch": ("trt.CudaGraphStrategy.DISABLED", r"CudaGraphStrategy is not in tensorrt 10"),
    "RTX's own in the other branch": (
        'if flavour == "tensorrt":\n  trt.CudaGraphStrategy',
        r"CudaGraphStrategy is not in tensorrt 10",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_attribute_is_found(name: str) -> None:
    source, message = PLANTED[name]

    assert any(re.search(message, problem) for problem in problems(source)), problems(source)


def test_fp16_flag_planted_in_our_own_builder_is_found() -> None:
    source = next(path for path in SOURCES if path.name == "building.py").read_text()
    line = "    config.profiling_verbosity ="
    assert line in source

    planted = source.replace(line, f"    config.set_flag(trt.BuilderFlag.FP16)\n{line}")

    assert [problem.partition(": ")[2] for problem in problems(planted)] == [
        f"BuilderFlag.FP16 is not in {facts.product} {facts.version}"
        for facts in all_facts()
        if "FP16" not in facts.classes["BuilderFlag"]
    ]
    assert any("tensorrt 11" in problem for problem in problems(planted))


def test_rtx_may_use_its_own_in_its_branch() -> None:
    source = 'def own(trt):\n  return trt.CudaGraphStrategy.DISABLED\nif flavour == "tensorrt-rtx":\n  own(trt)'

    assert problems(source) == []


def test_all_supported_versions_have_facts() -> None:
    found = {(facts.product, ".".join(facts.version.split(".")[:2])) for facts in all_facts()}

    assert found == {("tensorrt", "10.13"), ("tensorrt", "10.16"), ("tensorrt", "11.4"), ("tensorrt-rtx", "1.7")}
    assert sum(path.stat().st_size for path in FOLDER.glob("*.json")) < 500_000


def test_facts_are_those_of_the_installed_package() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    facts = next(facts for facts in all_facts() if facts.product == "tensorrt-rtx")
    if trt.__version__ != facts.version:
        pytest.skip(f"facts are of {facts.version}, {trt.__version__} is installed")

    bound = {name: members for name, members in facts.classes.items() if name[0].isupper()}  # no Python helpers
    for name, members in bound.items():
        assert set(members) <= set(dir(getattr(trt, name))), name
