"""Processes that are Ray's actors, on a cluster that is there or one that is started here."""

import contextlib
import io
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import (
    ActorUnschedulableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from segpipe.batch.actor import Actor
from segpipe.batch.cluster import LOCAL, Size
from segpipe.batch.hands import EndedError
from segpipe.errors import BackendError, InputError

_STORE_BYTES = 100 << 20  # of a cluster that is started here, beside the bundle, which alone is large
_ANSWER_S = 10.0  # for a node to take a connection
_ENDED = (
    ActorUnschedulableError, NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError,
)  # fmt: skip
"""What Ray says of a process that is no more, of its node, and of an answer that went with its node."""

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def connected(size: Size, bundle_bytes: int) -> Iterator["RayHands"]:
    """Actors of the cluster at the address. Call `prepare` before this module is imported."""
    with contextlib.ExitStack() as ending:
        options: dict[str, Any] = {"address": size.address}
        if size.address == LOCAL:
            folder = tempfile.mkdtemp(prefix="segpipe-ray-", dir="/tmp")
            ending.callback(shutil.rmtree, folder, ignore_errors=True)
            options |= {
                "num_cpus": size.actors, "include_dashboard": False, "_temp_dir": folder,
                "object_store_memory": _STORE_BYTES + 2 * bundle_bytes,
            }  # fmt: skip
        else:
            _require_answer(size.address)
        ending.enter_context(contextlib.redirect_stdout(_ToLog()))
        ending.callback(ray.shutdown)
        try:
            joined = ray.init(logging_level=logging.ERROR, log_to_driver=False, configure_logging=False, **options)
        except Exception as error:
            raise _no_cluster(size.address, _first_line(error)) from error
        if joined.dashboard_url:
            _log.info("Ray's dashboard: http://%s", joined.dashboard_url)
        _require_resources(size)
        yield RayHands(size)


class _ToLog(io.TextIOBase):
    """Ray prints what it has to say of its processes; on stdout stand our answers."""

    def write(self, text: str) -> int:
        if text.strip():
            _log.debug("%s", text.strip())
        return len(text)


class RayHands:
    """Where actors come from."""

    def __init__(self, size: Size) -> None:
        self._size = size

    def places(self) -> Sequence[str]:
        """Nodes that an actor fits on, by their ids."""
        return _fitting(self._size)

    def start(self, place: str = "") -> "RayHand":
        return RayHand(self._size, place)

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

    def __init__(self, size: Size, place: str) -> None:
        options: dict[str, Any] = {"num_gpus": size.gpus} if size.gpus else {"num_cpus": 1}
        where = NodeAffinitySchedulingStrategy(place, soft=False) if place else "SPREAD"
        self._actor: Any = ray.remote(Actor).options(max_restarts=0, scheduling_strategy=where, **options).remote()

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._actor, method).remote(*arguments)

    def end(self) -> None:
        with contextlib.suppress(RayError):
            ray.kill(self._actor)


def _require_answer(address: str | None) -> None:
    """Ray itself waits for minutes for a cluster where nobody listens."""
    address = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    host, colon, port = str(address).rpartition("://")[2].rpartition(":")
    if not (colon and port.isdecimal()):
        return  # Ray knows other addresses, and names what it does not
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str | None, why: str) -> BackendError:
    hint = "check --address, its token (RAY_AUTH_TOKEN), and that versions of Ray and Python are the same"
    if address == LOCAL:
        hint = "Ray's own helpers have little time to start: give the command again when the machine has less to do"
    return BackendError(f"no Ray cluster at {address}: {why}", hint=hint)


def _require_resources(size: Size) -> None:
    """Before anything is waited for that no node has."""
    if _fitting(size):
        return
    if size.gpus:
        most = max((node["Resources"].get("GPU", 0) for node in _nodes()), default=0)
        raise InputError(
            f"no node of the cluster has more than {most:g} GPUs, an actor was to have {size.gpus:g}",
            hint="leave out --gpus to work on CPUs, or add a node with a GPU",
        )
    raise InputError("the cluster has no CPU for an actor", hint="start nodes with --num-cpus")


def _fitting(size: Size) -> list[str]:
    """Ids of the nodes that could hold an actor, if they were empty."""
    kind, least = ("GPU", size.gpus) if size.gpus else ("CPU", 1)
    return [node["NodeID"] for node in _nodes() if node["Resources"].get(kind, 0) >= least]


def _nodes() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in found if node["Alive"]]


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
