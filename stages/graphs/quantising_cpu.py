"""An FP32 graph -> INT8 for CPUs, by ONNX Runtime's own quantiser: u8 with zero points, which it fuses best."""

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorData, TensorsData

from stages.graphs.calibrating import Span
from stages.graphs.sorting import sort_graph

_OPERATORS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "Clip", "Add", "Mul", "Concat", "Resize", "Pad", "Split"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"),
    *("Slice", "LeakyRelu", "Sigmoid", "HardSigmoid"),
)
"""What has INT8 kernels or only moves numbers. Softmax and norms lose too much and gain nothing."""
LEAST_OPSET = 13
"""Per-channel scales came with it."""
_OPTIONS = {"ActivationSymmetric": False, "WeightSymmetric": True}


def quantised_for_cpu(model: onnx.ModelProto, spans: Mapping[str, Span], kept: Collection[str]) -> onnx.ModelProto:
    """A new model in which all but the nodes named in `kept` is INT8.

    Weights have 7 bits: without VNNI, AVX2 adds two products in 16 bits, and products of 8 bits would saturate there.
    """
    whole = onnx.shape_inference.infer_shapes(model)
    _mark_inferred(whole)
    quantiser = QDQQuantizer(
        whole, True, True, QuantType.QInt8, QuantType.QUInt8, _ranges(spans), [], sorted(kept),
        list(_OPERATORS), dict(_OPTIONS),
    )  # fmt: skip
    quantiser.quantize_model()
    return _tidied(quantiser.model.model, model)


def _ranges(spans: Mapping[str, Span]) -> TensorsData:
    found = {
        name: TensorData(lowest=np.float32(span.low), highest=np.float32(span.high)) for name, span in spans.items()
    }
    return TensorsData(CalibrationMethod.MinMax, found)


def _mark_inferred(model: onnx.ModelProto) -> None:
    """Or the quantiser writes the model to a file and infers anew."""
    entry = model.metadata_props.add()
    entry.key, entry.value = "onnx.infer", "onnxruntime.quant"


def _tidied(made: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """Under our name, with the metadata of what it was made from, and without types that no longer hold."""
    graph = made.graph
    del graph.value_info[:]
    whole = onnx.ModelProto(
        ir_version=made.ir_version, producer_name=model.producer_name, producer_version=model.producer_version,
        graph=graph,
    )  # fmt: skip
    whole.opset_import.extend(entry for entry in made.opset_import if entry.domain in {"", "ai.onnx"})
    whole.metadata_props.extend(model.metadata_props)
    sort_graph(whole, "the INT8 graph")  # the quantiser appends its nodes at the end
    return whole
