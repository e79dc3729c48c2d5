"""Prints the pods of the files for KubeRay as Kubernetes' own PodTemplates, which its schemas know: `make deploy`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[1] / "examples/deploy"
FILES = {"ray-service.yaml": "rayClusterConfig", "ray-job.yaml": "rayClusterSpec"}
"""Where each file has its cluster."""


def pods(name: str) -> Iterator[dict[str, Any]]:
    """The templates of a file's head and workers."""
    cluster = yaml.safe_load((DEPLOY / name).read_text())["spec"][FILES[name]]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]


if __name__ == "__main__":
    head = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}}
    print(yaml.safe_dump_all([head | {"template": template} for name in FILES for template in pods(name)]))
