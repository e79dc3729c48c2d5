"""What a build does where a GPU is: TensorRT for RTX is told to build for it."""

import pytest

from segpipe.runtime.cuda.driver_library import gpu_name
from segpipe.runtime.trt import load, logger
from segpipe.runtime.trt.building import _set_compute_capabilities


@pytest.mark.parametrize(
    ("named", "wanted"), [((), ["CURRENT"]), (("8.9",), ["SM89"]), (("8.6", "12.0"), ["SM86", "SM120"])]
)
def test_an_engine_is_for_the_gpu_that_is_here_unless_others_are_named(
    named: tuple[str, ...], wanted: list[str]
) -> None:
    trt = load("tensorrt-rtx")
    builder = trt.Builder(logger(trt, quiet=True))
    config = builder.create_builder_config()

    _set_compute_capabilities(trt, config, named)

    found = [config.get_compute_capability(index).name for index in range(config.num_compute_capabilities)]
    assert found == wanted


def test_each_gpu_has_its_name() -> None:
    assert (gpu_name(), gpu_name(1), gpu_name(2)) == ("Host Memory 0 (9.0)", "Host Memory 1 (9.0)", None)
