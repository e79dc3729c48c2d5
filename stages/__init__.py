"""What runs offline: data, training, export, engines, validation, benchmark. Stages meet in the run directory."""

import segpipe  # noqa: F401 - before the libraries, whose telemetry it switches off
