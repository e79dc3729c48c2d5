"""Telemetry of the libraries that segpipe loads: off, unless SEGPIPE_TELEMETRY=1 asks for what each does by itself."""

import os

SWITCH = "SEGPIPE_TELEMETRY"
_OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # else ONNX Runtime keeps a device id and a queue of uploads under ~/.cache/Microsoft
    "HF_HUB_DISABLE_TELEMETRY": "1",  # segmentation_models_pytorch and timm load Hugging Face's hub
}


def switch_off() -> None:
    """Set what the libraries read when they are imported; what the user has set already stays."""
    if os.environ.get(SWITCH) != "1":
        for name, value in _OFF.items():
            os.environ.setdefault(name, value)
