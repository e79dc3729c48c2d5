"""How many processes, and whose; asked before Ray is imported, which reads its environment then."""

import os
import secrets
from dataclasses import dataclass

LOCAL = "local"
"""The address of a cluster that Ray starts on this machine, and ends."""


@dataclass(frozen=True)
class Size:
    """How much of a machine or a cluster is taken."""

    actors: int = 1
    gpus: float = 0.0
    """Of each actor; a share of one is allowed."""
    per_call: int = 16
    """Images that a process gets at once."""
    address: str | None = None
    """Of Ray's cluster; without one the processes are children of this one."""


def prepare(size: Size) -> None:
    """Nobody else takes part in a cluster that is started here, else whoever has an account on this machine could.

    What the user has set stays. Without a token in the environment Ray would keep one in the user's home; without a
    niceness its actors would be the last to run here, behind everything else. It would ask for ten minutes where
    somebody listens who is no Ray.
    """
    if size.address == LOCAL:
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_worker_niceness": "0"}
    else:
        own = {"RAY_NUM_REDIS_GET_RETRIES": "2", "RAY_py_gcs_connect_timeout_s": "5"}
    for name, value in own.items():
        os.environ.setdefault(name, value)
