"""Telemetry of the libraries that segpipe loads: off, unless SEGPIPE_TELEMETRY=1 asks for what each does by itself."""

import os
import sys

SWITCH = "SEGPIPE_TELEMETRY"
_OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # else ONNX Runtime keeps a device id and a queue of uploads under ~/.cache/Microsoft
    "HF_HUB_DISABLE_TELEMETRY": "1",  # segmentation_models_pytorch and timm load Hugging Face's hub
    "RAY_USAGE_STATS_ENABLED": "0",  # else a cluster that Ray starts reports home
}
_LEFT_OUT = "openvino_telemetry"  # `import openvino` calls home by it, and goes without it where it cannot be imported


def switch_off() -> None:
    """Set what the libraries read when they are imported; what the user has set or imported already stays."""
    if os.environ.get(SWITCH) != "1":
        for name, value in _OFF.items():
            os.environ.setdefault(name, value)
        sys.modules.setdefault(_LEFT_OUT, None)  # type: ignore[arg-type]  # Python's own way to forbid an import
