"""SegFormer of Hugging Face transformers: `pip install transformers torch torchvision onnx onnxscript onnxruntime`."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from benchmarks.exporters.leaving import SIZE, Left, given, leave
from benchmarks.exporters.spreading import spread

_SMALL = {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 6]}


def main() -> None:
    """Export, then answer by the processor of the same package."""
    it = given()
    torch.manual_seed(0)
    network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=11, decoder_hidden_size=64, **_SMALL))
    processor = SegformerImageProcessor(size={"height": SIZE[0], "width": SIZE[1]})
    pixels = processor([*it.fitting()[:4]], return_tensors="pt")["pixel_values"]
    spread(network, network.decode_head.classifier, pixels)
    path = it.out / "model.onnx"
    names: Any = {"input_names": ["pixel_values"], "output_names": ["logits"]}
    torch.onnx.export(network, (pixels[:1],), str(path), dynamo=True, external_data=False, verbose=False, **names)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def answer(frame: NDArray[np.uint8]) -> NDArray[Any]:
        given_pixels = processor(frame, return_tensors="np")["pixel_values"]
        (logits,) = session.run(["logits"], {"pixel_values": given_pixels})
        outputs = SimpleNamespace(logits=torch.from_numpy(logits))
        found: NDArray[Any] = processor.post_process_semantic_segmentation(outputs, [frame.shape[:2]])[0].numpy()
        return found

    leave(it, Left(answer, answer, ("transformers", "torch", "onnxruntime")))


if __name__ == "__main__":
    main()
