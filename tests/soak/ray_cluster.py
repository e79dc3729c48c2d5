"""One Ray on this machine that serves: each line on stdin names a file, which is deployed and then printed.

    python -m tests.soak.ray_cluster FOLDER PORT

Runs in an environment with `segpipe[cpu,serve,cluster]`, which the tests' own one has not.
"""

import logging
import sys
from pathlib import Path

import ray
import yaml
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

_STORE_BYTES = 100 << 20
_TRIES = 4


def main(folder: str, port: str) -> None:
    """Until stdin ends."""
    _start(folder)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    for line in sys.stdin:
        file = Path(line.strip())
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(yaml.safe_load(file.read_text())))
        print(file, flush=True)
    serve.shutdown()
    ray.shutdown()


def _start(folder: str) -> None:
    """Ray gives its own helpers 30 seconds, which a busy machine may not manage at the first time."""
    for tries_left in reversed(range(_TRIES)):
        try:
            ray.init(
                num_cpus=3, include_dashboard=False, object_store_memory=_STORE_BYTES, _temp_dir=folder,
                logging_level=logging.ERROR, log_to_driver=False,
            )  # fmt: skip
        except Exception as error:
            if not tries_left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
        else:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
