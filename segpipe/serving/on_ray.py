"""`segpipe serve` as an application of Ray Serve. The file that `segpipe serve --ray-config` writes names it."""

import asyncio
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.serve import metrics as ray_metrics

from segpipe.serving.guard import Message, Receive, Send
from segpipe.serving.metrics import MILLISECONDS, Metrics
from segpipe.serving.ray_file import Arguments
from segpipe.serving.replica import Replica


@serve.deployment(name="Segpipe")
@serve.ingress()
class _Segpipe:
    """A replica in a process of Ray's."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments, self._taking = arguments, asyncio.Lock()
        self._replica: Replica | None = None

    def __serve_build_asgi_app__(self) -> Any:
        """Asked for before the first `reconfigure`. A function: uvicorn takes a bound method for ASGI 2."""

        async def answer(scope: Message, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await _live(receive, send)
            elif self._replica is not None:
                await self._replica.answer(scope, receive, send)

        return answer

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Once at the start, where an error keeps the replica from being; then whenever user_config changes."""
        async with self._taking:
            if self._replica is None:
                self._replica = await asyncio.to_thread(Replica, self._arguments, config, _threads(), _Metrics())
            else:
                await asyncio.to_thread(self._replica.take, config)

    async def check_health(self) -> None:
        """Ray starts another replica in place of one that raises."""
        if self._replica is not None:
            self._replica.require_health()


class _Metrics(Metrics):
    """Also told to Ray, which names the replica: who asks for /metrics meets any one of them."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = ray_metrics.Counter("segpipe_requests_total", "Requests.", tag_keys=("status", "artifact"))
        self._spent = ray_metrics.Histogram(
            "segpipe_stage_milliseconds", "Parts of an answer.", boundaries=MILLISECONDS, tag_keys=("stage", "artifact")
        )
        self._failed = ray_metrics.Counter("segpipe_backend_failures_total", "Pictures on which the backend failed.")
        self._taken = ray_metrics.Counter("segpipe_reloads_total", "Models offered.", tag_keys=("outcome",))

    def count_request(self, status: int, artifact: str) -> None:
        super().count_request(status, artifact)
        self._asked.inc(tags={"status": str(status), "artifact": artifact})

    def time_stages(self, milliseconds: Mapping[str, float], artifact: str) -> None:
        super().time_stages(milliseconds, artifact)
        for stage, value in milliseconds.items():
            self._spent.observe(value, tags={"stage": stage, "artifact": artifact})

    def count_failure(self) -> None:
        super().count_failure()
        self._failed.inc()

    def count_reload(self, outcome: str) -> None:
        super().count_reload(outcome)
        self._taken.inc(tags={"outcome": outcome})


def application(arguments: Arguments) -> Any:
    """Ray's builder: `args` of the file to what is deployed."""
    deployment: Any = _Segpipe
    return deployment.bind(arguments)


async def _live(receive: Receive, send: Send) -> None:
    """Beginning and end of the application, of which it needs neither."""
    said = ""
    while said != "lifespan.shutdown":
        said = (await receive())["type"]
        await send({"type": f"{said}.complete"})


def _threads() -> int:
    """As many as the cores that Ray reserves for this replica."""
    context: Any = ray.get_runtime_context()
    return max(1, int(context.get_assigned_resources().get("CPU", 1)))
