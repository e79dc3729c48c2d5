"""Processes that are Ray's actors, on a cluster that is there or one that is started here."""

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, WorkerCrashedError

from segpipe.batch.actor import Actor
from segpipe.batch.cluster import LOCAL, Size
from segpipe.batch.hands import EndedError
from segpipe.errors import BackendError, InputError

_STORE_BYTES = 100 << 20  # of a cluster that is started here: the bundle alone lies in it
_ENDED = (RayActorError, WorkerCrashedError, OutOfMemoryError)


@contextlib.contextmanager
def connected(size: Size) -> Iterator["RayHands"]:
    """Actors of the cluster at the address. Call `prepare` before this module is imported."""
    with contextlib.ExitStack() as ending:
        options: dict[str, Any] = {"address": size.address}
        if size.address == LOCAL:
            folder = tempfile.mkdtemp(prefix="segpipe-ray-", dir="/tmp")
            ending.callback(shutil.rmtree, folder, ignore_errors=True)
            options |= {
                "num_cpus": size.actors, "include_dashboard": False, "object_store_memory": _STORE_BYTES,
                "_temp_dir": folder,
            }  # fmt: skip
        ending.callback(ray.shutdown)
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False, configure_logging=False, **options)
        except Exception as error:
            raise BackendError(
                f"no Ray cluster at {size.address}: {_first_line(error)}",
                hint="check --address, its token (RAY_AUTH_TOKEN), and that versions of Ray and Python are the same",
            ) from error
        _require_resources(size)
        yield RayHands(size)


class RayHands:
    """Where actors come from."""

    def __init__(self, size: Size) -> None:
        self._size = size

    def start(self) -> "RayHand":
        return RayHand(self._size)

    def share(self, data: bytes) -> Any:
        """Once in each node's memory."""
        return ray.put(data)

    def ready(self, calls: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        ready, _ = ray.wait([*calls], num_returns=1, timeout=timeout_s)
        return list(ready)

    def answer(self, call: Any) -> Any:
        try:
            return ray.get(call)
        except _ENDED as error:
            raise EndedError(_first_line(error)) from error


class RayHand:
    """One actor. Ray does not start it again by itself: what its images need is for the crew to say."""

    def __init__(self, size: Size) -> None:
        options: dict[str, Any] = {"num_gpus": size.gpus} if size.gpus else {"num_cpus": 1}
        self._actor: Any = ray.remote(Actor).options(max_restarts=0, **options).remote()

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._actor, method).remote(*arguments)

    def end(self) -> None:
        with contextlib.suppress(RayError):
            ray.kill(self._actor)


def _require_resources(size: Size) -> None:
    """Before anything is waited for that no node has."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if size.gpus and found.get("GPU", 0) < size.gpus:
        raise InputError(
            f"the cluster has {found.get('GPU', 0):g} GPUs, an actor was to have {size.gpus:g}",
            hint="leave out --gpus to work on CPUs, or add a node with a GPU",
        )
    if not size.gpus and found.get("CPU", 0) < 1:
        raise InputError("the cluster has no CPU for an actor", hint="start nodes with --num-cpus")


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
