"""Each test runs with both providers, and leaves nothing behind in the driver."""

import gc
import importlib.util
from collections.abc import Iterator
from typing import Literal

import pytest

from segpipe.runtime.cuda.device import Device
from segpipe.runtime.cuda.opening import open_device
from tests.host_driver import driver

collect_ignore_glob = [] if driver.is_here() else ["test_*.py"]
if driver.is_here():
    driver.library()

PROVIDERS: dict[Literal["cuda-python", "pycuda"], str] = {"cuda-python": "cuda", "pycuda": "pycuda"}


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> Literal["cuda-python", "pycuda"]:
    """A way to the driver that is installed."""
    if importlib.util.find_spec(PROVIDERS[request.param]) is None:
        pytest.skip(f"{request.param} is not installed")
    found: Literal["cuda-python", "pycuda"] = request.param
    return found


@pytest.fixture
def device(provider: Literal["cuda-python", "pycuda"]) -> Device:
    """The first GPU of the driver."""
    return open_device(0, provider)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    driver.report()
    yield
    gc.collect()
    found = driver.report()
    assert found["problems"] == []
    assert not any(found["live"].values()), found["live"]
