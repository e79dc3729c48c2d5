"""The file of Ray Serve: written by `segpipe serve --ray-config`, and what of it each replica reads."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from segpipe.artifacts import AUTO, Precision, chosen
from segpipe.documents import Form
from segpipe.errors import InputError
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.storage import write_atomically
from segpipe.serving.models import Source

_HINT = "write the file anew: segpipe serve RUN --ray-config FILE"
_TEXT = """\
# Written by `segpipe serve --ray-config`. On the cluster: serve deploy {name}
proxy_location: EveryNode
http_options: {{host: {host}, port: {port}, request_timeout_s: 60}}
applications:
  - name: segpipe
    route_prefix: /
    import_path: segpipe.serving.on_ray:application
    args:  # what changes here replaces every replica
      token_file: {token_file}
      max_bytes: {max_bytes}
    deployments:
      - name: Segpipe
        autoscaling_config: {{min_replicas: 1, max_replicas: 4, target_ongoing_requests: 2}}
        ray_actor_options: {{num_cpus: 1}}  # of a replica, which works with as many threads; add num_gpus for an engine
        max_ongoing_requests: 4  # of a replica, in work or waiting
        max_queued_requests: {queue}  # in each proxy before the replicas; the next one is answered 429
        backpressure_config: {{status_code: 429, retry_after_s: 1}}
        graceful_shutdown_timeout_s: 60
        user_config:  # what changes here is taken by each replica as it runs, or refused
{user_config}
"""


class Arguments(BaseModel):
    """What a replica is started with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token_file: Path | None = None
    max_bytes: int = Field(default=64 << 20, ge=1)


class UserConfig(BaseModel):
    """What a replica opens, at its start and whenever it changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Path
    backend: str = AUTO
    precision: Precision | None = None
    allow_unvalidated: bool = False
    max_megapixels: int = Field(default=64, ge=1)
    shadow: float = Field(default=0.0, ge=0, le=1)

    def source(self, threads: int) -> Source:
        """For a replica with so many threads."""
        return Source(
            self.run, self.backend, self.precision, self.allow_unvalidated,
            self.max_megapixels * 1_000_000, self.shadow, threads,
        )  # fmt: skip


_USER_CONFIG = Form("user_config", TypeAdapter(UserConfig), InputError)


def read_user_config(config: Any) -> UserConfig:
    """As Ray hands it over; a name that is none is refused."""
    return _USER_CONFIG.read(json.dumps(config), "user_config", _HINT)


def write_ray_file(path: Path, opened: UserConfig, arguments: Arguments, http: tuple[str, int], queue: int) -> None:
    """Paths become absolute: every node reads them for itself. What is there stays, which somebody may have edited."""
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} is there already", hint="name another file, or remove it")
    if http[1] == 0:
        raise InputError("port 0 takes another port on every node", hint="choose --port")
    chosen(RunDirectory(opened.run).manifest, opened.backend, opened.precision)  # refused here, not on every node
    token_file = arguments.token_file
    if token_file is not None and not token_file.is_file():
        raise InputError(f"{token_file} cannot be read", hint="name a file that holds the token")
    content = opened.model_dump(mode="json") | {"run": str(opened.run.absolute())}
    text = _TEXT.format(
        name=_quoted(path.name),
        host=_quoted(http[0]),
        port=http[1],
        token_file=_quoted(token_file and str(token_file.absolute())),
        max_bytes=arguments.max_bytes,
        queue=queue,
        user_config="\n".join(f"          {name}: {_quoted(value)}" for name, value in content.items()),
    )
    write_atomically(path, text.encode())


def _quoted(value: Any) -> str:
    """As YAML reads it: of JSON's escapes two make one sign beyond the first 65536, in YAML none does."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(sign if " " <= sign <= "~" else f"\\U{ord(sign):08x}" for sign in text)
