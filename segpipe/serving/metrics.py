"""What /metrics tells Prometheus. Every name of ours begins with `segpipe_`; docs/how-to/serve.md lists them."""

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

MILLISECONDS = (0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)


class Metrics:
    """One process's, in a registry of their own: a second server in the same process counts for itself."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each, which nobody reads
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "segpipe_requests",
            "Requests, by the status of the answer.",
            ["status", "artifact"],
            registry=self._registry,
        )
        self._stages = Histogram(
            "segpipe_stage_milliseconds",
            "Milliseconds of the parts of an answered POST /segment.",
            ["stage", "artifact"],
            buckets=MILLISECONDS,
            registry=self._registry,
        )
        self._failures = Counter(
            "segpipe_backend_failures", "Pictures on which the backend failed.", registry=self._registry
        )
        self._reloads = Counter(
            "segpipe_reloads", "Reloads, by whether the new model took over.", ["outcome"], registry=self._registry
        )
        for outcome in ("accepted", "refused"):
            self._reloads.labels(outcome)

    def count_request(self, status: int, artifact: str) -> None:
        """One answer, of whatever path."""
        self._requests.labels(str(status), artifact).inc()

    def time_stages(self, milliseconds: Mapping[str, float], artifact: str) -> None:
        """One answered picture."""
        for stage, value in milliseconds.items():
            self._stages.labels(stage, artifact).observe(value)

    def count_failure(self) -> None:
        """One picture that was answered 503 for the backend's sake."""
        self._failures.inc()

    def count_reload(self, outcome: str) -> None:
        """One that was tried."""
        self._reloads.labels(outcome).inc()

    def watch(self, name: str, what: str, read: Callable[[], float]) -> None:
        """A number that is read whenever somebody asks."""
        Gauge(name, what, registry=self._registry).set_function(read)

    def collect_from(self, collector: Any) -> None:
        """Something of prometheus_client's shape whose `collect` is called whenever somebody asks."""
        self._registry.register(collector)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self._registry)
