"""The shadow's counts for Prometheus, read from whichever model serves."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from segpipe.serving.models import Model

_COUNTED = {
    "frames": "Frames that were compared with the reference.",
    "pixels": "Pixels of those frames.",
    "flips": "Pixels whose class differs from the reference's.",
    "beyond": "Frames that agree less than the gate allows for one image.",
    "dropped": "Frames that were due while another was compared.",
    "failed": "Frames on which the reference failed.",
}


@dataclass(frozen=True)
class ShadowCollector:
    """As prometheus_client asks for it; nothing where there is no shadow."""

    current: Callable[[], Model | None]

    def collect(self) -> Iterator[Metric]:
        """Called whenever somebody reads /metrics."""
        model = self.current()
        report = model.shadow_report if model else None
        if model is None or report is None:
            return
        artifact = [model.segmenter.artifact_sha256]
        for name, what in _COUNTED.items():
            counter = CounterMetricFamily(f"segpipe_shadow_{name}", what, labels=["artifact"])
            counter.add_metric(artifact, getattr(report, name))
            yield counter
        drift = GaugeMetricFamily(
            "segpipe_shadow_drift", "1 while frames differ more than the gate allows.", labels=["artifact"]
        )
        drift.add_metric(artifact, report.drifting)
        yield drift
