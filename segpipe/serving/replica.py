"""Replica: what `segpipe serve` is behind somebody else's sockets. Knows nothing of who holds them."""

import logging
import sys
from typing import Any

from segpipe.errors import BackendError, InputError
from segpipe.serving.app import build_app
from segpipe.serving.guard import Guard, Limits
from segpipe.serving.line import Line
from segpipe.serving.metrics import Metrics
from segpipe.serving.models import Models
from segpipe.serving.ray_file import Arguments, read_user_config
from segpipe.serving.service import Service
from segpipe.serving.token import read_token

ASKED_BY = "user_config"
_NO_RELOAD = "a replica takes another model by its user_config: change it in the file of Ray Serve and deploy that"

_log = logging.getLogger(__name__)


class Replica:
    """One process of several: an open model, threads, and the application before them."""

    def __init__(self, arguments: Arguments, config: Any, threads: int, metrics: Metrics) -> None:
        self._threads = threads
        self._models = Models(read_user_config(config).source(threads), metrics.count_reload)
        self._models.open()
        line = Line(threads, sys.maxsize)  # whoever holds the sockets says how many may come
        self._service = Service(self._models, line, metrics)
        limits = Limits(read_token(arguments.token_file) if arguments.token_file else b"", arguments.max_bytes)
        app = build_app(self._service, _NO_RELOAD)
        self.answer = Guard(app, limits, metrics, lambda: self._models.artifact, line.require_room)
        _log.info("ready: artifact %s", self._models.artifact[:12])

    def take(self, config: Any) -> None:
        """What the config names takes over. What is refused leaves the old one serving: an error would end it."""
        try:
            source = read_user_config(config).source(self._threads)
        except InputError as error:
            self._models.refuse(ASKED_BY, str(error))
        else:
            self._models.reload(ASKED_BY, source)

    def require_health(self) -> None:
        """Raise where nothing but another process helps."""
        if reason := self._service.beyond_help:
            raise BackendError(reason)

    def close(self) -> None:
        """After the last answer."""
        self._service.line.close()
        self._models.close()
