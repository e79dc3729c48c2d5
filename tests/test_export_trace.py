"""A trained network becomes a graph that is the network, says what it is, and names no machine."""

import getpass
import hashlib
import json
import signal
import subprocess
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from segpipe.contract.schema import METADATA_KEY, Contract
from segpipe.errors import ConfigError, ExportError, InputError
from stages.config.root import BuildConfig, ExportConfig, Profile
from stages.export.clean import clean
from stages.export.equality import difference, random_tensors, require_equal, session
from stages.export.files import Exported, export_files
from stages.export.interrupts import telling_interrupts
from stages.export.source import ExportSource
from stages.export.trace import trace
from stages.graphs import naming
from stages.graphs.input_shapes import shape_ranges
from stages.models.skipnet import SkipNet
from tests.children import ROOT
from tests.tiny_graphs import plain

CLASSES = ("road", "car", "sky")
FIXED = Contract(classes=CLASSES, network_size=(32, 64), output_stride=4, size_multiple=32)
OPEN = Contract(classes=CLASSES, fit="pad", output_stride=4, size_multiple=32)
FRAMES = [np.random.default_rng(n).standard_normal((1, 3, 32, 64), np.float32) for n in range(2)]


class Loud(nn.Module):
    """SkipNet with one module whose activations reach 1e5, scaled back after it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = SkipNet(3, len(CLASSES), width=4)
        self.amplifier = nn.Conv2d(len(CLASSES), len(CLASSES), 1)
        self.attenuator = nn.Conv2d(len(CLASSES), len(CLASSES), 1)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.attenuator(self.amplifier(self.body(image)))
        return scores


def network(model: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = model or SkipNet(3, len(CLASSES), width=16)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval()


def source_of(model: nn.Module, contract: Contract) -> ExportSource:
    def reference(tensor: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            scores: np.ndarray = model(torch.from_numpy(tensor)).numpy()
        return scores

    return ExportSource(trace(model, contract, 18), reference, contract, [[0, 0, 0]] * 3, {})


@pytest.fixture(scope="module")
def source() -> ExportSource:
    return source_of(network(), FIXED)


@pytest.fixture(scope="module")
def exported(source: ExportSource) -> Exported:
    return export_files(source, ExportConfig(), BuildConfig(), lambda: FRAMES)


def test_graph_alone_is_usable(exported: Exported) -> None:
    for name in ("model.onnx", "model.fp16.onnx"):
        model = onnx.load_model_from_string(exported.files[name])
        metadata = {entry.key: entry.value for entry in model.metadata_props}

        assert Contract.from_json(metadata[METADATA_KEY], name) == FIXED
        assert model.opset_import[0].version == 18
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_batch_norms_are_folded_and_nothing_is_dead(exported: Exported) -> None:
    graph = onnx.load_model_from_string(exported.files["model.onnx"]).graph

    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    assert {node.op_type for node in graph.node} == {"Conv", "Relu", "Resize", "Concat"}
    assert {tensor.name for tensor in graph.initializer} <= used
    assert all(used.intersection(node.output) for node in graph.node)


def test_half_file_is_half_the_size(exported: Exported) -> None:
    files = exported.files

    assert len(files["model.fp16.onnx"]) <= 0.52 * len(files["model.onnx"])


def test_file_names_no_machine_path_or_user_but_module_and_line(exported: Exported) -> None:
    text = exported.files["model.onnx"] + exported.files["model.fp16.onnx"]
    nodes = onnx.load_model_from_string(exported.files["model.onnx"]).graph.node

    for secret in (str(ROOT), str(Path.home()) + "/", "site-packages", "/home/", sys.prefix, f"/{getpass.getuser()}/"):
        assert secret.encode() not in text
    assert naming.modules_of(nodes[0])[:1] == ["stem"]
    assert {naming.metadata(node, naming.SOURCE_LINE).rpartition(":")[0] for node in nodes} == {
        "stages/models/skipnet.py"
    }


@pytest.mark.parametrize(
    ("file", "kept"),
    [
        (f"{ROOT}/stages/models/skipnet.py", "stages/models/skipnet.py:7"),
        ("/home/alice/secret project/net.py", "net.py:7"),
        ("/home/alice/net.py", "net.py:7"),
    ],
)
def test_source_line_is_what_python_imports_and_never_a_persons_folder(file: str, kept: str) -> None:
    model = plain()
    trace_of = f'File "{file}", line 7, in forward\n  File "{sys.prefix}/site-packages/torch/nn/conv.py", line 1'
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value=trace_of)

    cleaned = clean(model)

    assert naming.metadata(cleaned.graph.node[0], naming.SOURCE_LINE) == kept
    assert b"alice" not in cleaned.SerializeToString()


def test_export_is_byte_identical_in_another_process(exported: Exported) -> None:
    code = (
        "import hashlib, json\n"
        "from tests.test_export_trace import *\n"
        "files = export_files(source_of(network(), FIXED), ExportConfig(), BuildConfig(), lambda: FRAMES).files\n"
        "print(json.dumps({n: hashlib.sha256(d).hexdigest() for n, d in files.items() if n.endswith('onnx')}))"
    )
    other = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )

    ours = {name: hashlib.sha256(data).hexdigest() for name, data in exported.files.items() if name.endswith("onnx")}
    assert json.loads(other.stdout.splitlines()[-1]) == ours


def test_open_sizes_export_and_are_compared_at_every_shape() -> None:
    build = BuildConfig(profiles=(Profile(batch=(1, 1, 3), height=(32, 64, 96), width=(32, 96, 160)),))

    files = export_files(source_of(network(), OPEN), ExportConfig(), build, lambda: FRAMES).files

    run = onnxruntime.InferenceSession(files["model.onnx"], providers=["CPUExecutionProvider"])
    assert run.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert run.run(None, {"image": np.zeros((3, 3, 160, 32), np.float32)})[0].shape == (3, 3, 40, 8)


def test_network_that_cannot_be_exported_is_refused_with_what_to_do() -> None:
    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, len(CLASSES), 4, 4)

        def forward(self, image: Tensor) -> Tensor:
            scores: Tensor = self.head(image)
            return scores if scores.sum() > 0 else -scores

    with pytest.raises(ExportError, match=r"PyTorch cannot export the network: .*\. give \[input\] a height"):
        trace(Peeking().eval(), OPEN, 18)


def test_graph_that_is_another_network_is_refused_with_figures(source: ExportSource) -> None:
    tensors = random_tensors(FIXED, shape_ranges(FIXED, BuildConfig()))
    candidate = session(source.graph, FIXED)

    with pytest.raises(ExportError, match=r"random input.*relative L2 error .*limit.*largest difference"):
        require_equal(lambda tensor: 1.01 * source.reference(tensor), candidate, FIXED, tensors)


def chaotic(tensor: np.ndarray) -> np.ndarray:
    """Changes of the last bit become changes of a thousandth."""
    return np.sin(1e4 * tensor)


@pytest.mark.parametrize(("scale", "passes"), [(1.002, True), (1.05, False)])
def test_what_a_networks_own_rounding_changes_is_excused_and_no_more(scale: float, passes: bool) -> None:
    tensors = [("noise", np.random.default_rng(0).standard_normal((1, 3, 64, 96), np.float32))]
    outcome = nullcontext() if passes else pytest.raises(ExportError, match="the graph is not the network")

    with outcome:
        require_equal(chaotic, lambda tensor: scale * chaotic(tensor), FIXED, tensors)
    for dtype in (np.float32, np.float16):  # a calm network may not differ as much
        with pytest.raises(ExportError, match=r"limit 0\.0001"):
            require_equal(
                lambda t: t, lambda t: t * t.dtype.type(1.004), FIXED, [("noise", tensors[0][1].astype(dtype))]
            )


def test_nan_and_other_shapes_are_infinitely_far() -> None:
    scores = np.ones((1, 3, 4, 4), np.float32)
    broken = scores.copy()
    broken[0, 0, 0, 0] = np.nan

    assert difference(scores, broken, labels=False) == float("inf")
    assert difference(scores, scores[:, :2], labels=False) == float("inf")
    assert difference(scores, scores, labels=False) == 0


def test_loud_module_becomes_an_island_and_the_report_says_why() -> None:
    model = network(Loud())
    assert isinstance(model, Loud)
    nn.init.normal_(model.body.head.weight, 0, 100.0)
    nn.init.constant_(model.amplifier.weight, 6e4)
    nn.init.constant_(model.attenuator.weight, 1e-4)

    source = source_of(model, FIXED)
    result = export_files(source, ExportConfig(), BuildConfig(), lambda: FRAMES)

    report = json.loads(result.files["precision.json"])
    assert {island["module"] for island in report["islands"]} == {"amplifier", "attenuator"}
    assert "activations up to" in report["islands"][0]["reason"]
    assert result.figures["fp16_relative_error"] < 5e-3  # rounding of seventeen layers
    bare = export_files(source, ExportConfig(fp32_islands=()), BuildConfig(), lambda: FRAMES)
    assert bare.figures["fp16_relative_error"] is None  # Inf: without the island it is broken, and says so


def test_named_module_stays_fp32_and_an_unknown_one_is_refused(source: ExportSource) -> None:
    files = export_files(source, ExportConfig(fp32_islands=("down1",)), BuildConfig(), lambda: FRAMES).files

    kept = {tensor.name for tensor in onnx.load_model_from_string(files["model.fp16.onnx"]).graph.initializer
            if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 4}  # fmt: skip
    assert kept
    assert all(name.startswith("down1.") for name in kept)
    with pytest.raises(ConfigError, match="no module or node 'decoder'"):
        export_files(source, ExportConfig(fp32_islands=("decoder",)), BuildConfig(), lambda: FRAMES)


def test_network_too_large_for_one_file_is_refused_before_it_is_exported() -> None:
    with torch.device("meta"):
        large = nn.Conv2d(3, 200_000_000, 1)

    with pytest.raises(InputError, match=r"the network holds 3\.2 GB, one ONNX file can hold 2\.1 GB"):
        trace(large, FIXED, 18)


def test_wrong_stride_is_refused() -> None:
    contract = FIXED.model_copy(update={"output_stride": 8})

    with pytest.raises(ExportError, match="its stride promises"):
        trace(network(), contract, 18)


@pytest.mark.parametrize("outcome", ["another error", "none"])
def test_an_interrupt_that_the_exporter_swallows_is_still_one(outcome: str) -> None:
    with pytest.raises(KeyboardInterrupt), telling_interrupts():
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        if outcome == "another error":
            raise AttributeError("module 'triton' has no attribute 'backends'")

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
