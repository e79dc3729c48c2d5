"""torchvision's own networks and transforms: `pip install torchvision torch onnx onnxscript onnxruntime`."""

from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights, lraspp_mobilenet_v3_large
from torchvision.transforms.functional import to_pil_image

from benchmarks.exporters.leaving import SIZE, Left, given, leave
from benchmarks.exporters.spreading import spread


class _Spread(torch.nn.Module):
    """LR-ASPP adds two heads: the sum is what has to be spread, so its low head is emptied."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        torch.nn.init.zeros_(network.classifier.low_classifier.weight)
        torch.nn.init.zeros_(network.classifier.low_classifier.bias)
        self.network = network

    def forward(self, images: torch.Tensor) -> Any:
        """Scores alone."""
        return self.network(images)["out"]


def main() -> None:
    """Export, then answer by the transforms that its weights name: of frames that fit, `resize_size` is their own."""
    it = given()
    torch.manual_seed(0)
    network: Any = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=11)
    transforms = LRASPP_MobileNet_V3_Large_Weights.DEFAULT.transforms(resize_size=SIZE[0])
    pixels = torch.stack([transforms(to_pil_image(frame)) for frame in it.fitting()[:4]])
    spread(_Spread(network), network.classifier.high_classifier, pixels)
    path = it.out / "model.onnx"
    torch.onnx.export(network, (pixels[:1],), str(path), dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def answer(frame: NDArray[np.uint8]) -> NDArray[Any]:
        batch = transforms(to_pil_image(frame)).unsqueeze(0).numpy()
        out = session.run(None, {session.get_inputs()[0].name: batch})[0]
        found: NDArray[Any] = torch.from_numpy(out).softmax(dim=1)[0].argmax(0).numpy()
        return found

    leave(it, Left(answer, None, ("torchvision", "torch", "onnxruntime")))


if __name__ == "__main__":
    main()
