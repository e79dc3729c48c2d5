"""MMSegmentation by MMDeploy: `pip install mmsegmentation mmdeploy mmcv-lite==2.1.0 torch==2.1.2 torchvision==0.16.2`
`"numpy<2" onnx==1.15.0 onnxruntime ftfy regex`. MMCV's compiled operators come in no wheel: a module `mmcv._ext` whose
functions raise stands in for them, and no network here calls one.
"""

from pathlib import Path
from typing import Any

import mmseg
import numpy as np
import torch
from mmdeploy.apis.pytorch2onnx import torch2onnx
from mmdeploy.apis.utils import build_task_processor
from mmdeploy.utils import get_input_shape
from mmengine.config import Config
from numpy.typing import NDArray

from benchmarks.exporters.leaving import SIZE, Left, given, leave
from benchmarks.exporters.spreading import spread

_MODEL = "fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py"
_DEPLOY = {
    "codebase_config": {"type": "mmseg", "task": "Segmentation", "model_type": "end2end", "with_argmax": True},
    "backend_config": {"type": "onnxruntime"},
    "onnx_config": {
        "type": "onnx",
        "export_params": True,
        "keep_initializers_as_inputs": False,
        "opset_version": 11,
        "save_file": "model.onnx",
        "input_names": ["input"],
        "output_names": ["output"],
        "input_shape": [SIZE[1], SIZE[0]],
        "optimize": False,
    },
}
"""MMDeploy's segmentation_onnxruntime_static, of another size."""


def main() -> None:
    """Export by MMDeploy, answer by MMDeploy's own model of the file."""
    it = given()
    torch.manual_seed(0)
    model_cfg = Config.fromfile(str(Path(mmseg.__file__).parent / ".mim" / "configs" / _MODEL))
    model_cfg.model = _plain(model_cfg.model.to_dict())
    deploy_cfg = Config(_DEPLOY)
    task = build_task_processor(model_cfg, deploy_cfg, "cpu")
    network = task.build_pytorch_model(None)
    pixels = network.data_preprocessor({"inputs": [_planes(frame) for frame in it.fitting()[:4]]}, False)["inputs"]
    spread(network, network.decode_head.conv_seg, pixels)
    weights = it.out / "weights.pth"
    torch.save({"state_dict": network.state_dict()}, weights)
    torch2onnx(it.fitting()[0], str(it.out), "model.onnx", deploy_cfg, model_cfg, str(weights), device="cpu")
    model = task.build_backend_model([str(it.out / "model.onnx")], task.update_data_preprocessor)

    def answer(frame: NDArray[np.uint8]) -> NDArray[Any]:
        inputs, _ = task.create_input(np.ascontiguousarray(frame[:, :, ::-1]), get_input_shape(deploy_cfg))
        found: NDArray[Any] = model.test_step(inputs)[0].pred_sem_seg.data[0].numpy()
        return found

    names = [str(name) for name in mmseg.datasets.CityscapesDataset.METAINFO["classes"]]
    packages = ("mmsegmentation", "mmdeploy", "mmcv-lite", "torch", "onnxruntime")
    leave(it, Left(answer, answer, packages, {"classes": names}))


def _planes(frame: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(frame[:, :, ::-1].transpose(2, 0, 1)))


def _plain(node: Any) -> Any:
    """Batch norms of one process, and no download of pretrained weights."""
    if isinstance(node, dict):
        kept = {key: _plain(value) for key, value in node.items() if key not in {"pretrained", "init_cfg"}}
        return kept | ({"type": "BN"} if kept.get("type") == "SyncBN" else {})
    return [_plain(value) for value in node] if isinstance(node, list | tuple) else node


if __name__ == "__main__":
    main()
