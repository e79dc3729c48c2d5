"""ONNX Runtime on whichever provider: how a session is opened, what it carries, and every way that it fails."""

import onnxruntime

from segpipe.contract.schema import FrameContract
from segpipe.errors import BackendError

_STATE = onnxruntime.capi.onnxruntime_pybind11_state
_OWN = (kind for kind in vars(_STATE).values() if isinstance(kind, type) and issubclass(kind, Exception))
FAILURES: tuple[type[Exception], ...] = (*_OWN, RuntimeError, ValueError)
"""What ONNX Runtime raises: RuntimeError for what it has no name for, ValueError from its Python side."""

InvalidArgument: type[Exception] = _STATE.InvalidArgument

Provider = str | tuple[str, dict[str, str]]

_UNWANTED = ["WeightBiasQuantization"]
"""It quantises, a tensor at a time, the very layers that an INT8 graph keeps in floats: a CamVid network fell to mIoU
0.095."""


def open_session(
    artifact: bytes, settings: onnxruntime.SessionOptions, provider: Provider
) -> onnxruntime.InferenceSession:
    """Load a graph that passed `refuse_external_data`, or raise one of `FAILURES`."""
    # By itself it recognises its own format too, whose references to other files nobody has looked at.
    settings.add_session_config_entry("session.load_model_format", "ONNX")
    # Between calls its threads would spin for 50 ms and take the cores from whatever the application does next.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    # The fallback prints to stdout and tries again on the CPU, which is not what was asked for.
    return onnxruntime.InferenceSession(
        artifact, settings, providers=[provider], enable_fallback=0, disabled_optimizers=_UNWANTED
    )


def embedded_contract(session: onnxruntime.InferenceSession) -> FrameContract:
    """The contract inside the graph."""
    try:
        metadata = session.get_modelmeta().custom_metadata_map
    except UnicodeError as error:
        raise BackendError(f"the ONNX model's metadata is not UTF-8: {error}", hint="export it again") from error
    return FrameContract.from_metadata(metadata, "the ONNX model")


def reason(error: Exception) -> str:
    """What ONNX Runtime said, on one line."""
    return " ".join(str(error).split())
