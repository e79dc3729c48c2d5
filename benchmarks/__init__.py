"""What is run by hand or on a GPU machine; results/ holds the committed figures and the machine they came from."""

import segpipe  # noqa: F401 - before the libraries, whose telemetry it switches off
