"""`segpipe triton`: a repository that a server takes. The server itself answers in `make triton`."""

import re
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.text_encoding import CUnescape
from hypothesis import given
from hypothesis import strategies as st

from segpipe import testing
from segpipe.artifacts import BUILD
from segpipe.bundle import write_bundle
from segpipe.errors import InputError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.segmenter import Segmenter
from segpipe.triton.answers import masks_of
from segpipe.triton.config import Copies, ModelConfig, Tensor
from segpipe.triton.repository import Request, write_repository
from tests.calling import call
from tests.triton.runs import CONTRACT, LARGEST, with_end_to_end, with_engine

ON_GPU = Request(backend="gpu", instances=Copies(on_gpu=True), bare=True)


def config_of(folder: Path) -> str:
    return (folder / "config.pbtxt").read_text()


@given(st.text())
def test_any_text_is_read_again_as_it_was(text: str) -> None:
    tensor, parameters = Tensor("frame", "uint8", (-1, -1, 3)), (("key", text),)
    config = ModelConfig("m", "python", (tensor,), (), Copies(), testing.CONTRACT, (8, 8), parameters)

    written = re.findall(r'^    string_value: "(.*)"$', config.to_text(), re.MULTILINE)[-1]

    assert CUnescape(written) == text.encode()


def test_a_version_holds_the_bundle_that_segmenter_opens(run: Path, tmp_path: Path) -> None:
    frame = testing.make_frame(40, 60)[0]

    code, out, _ = call("triton", run, "-o", tmp_path / "models", "--name", "street")

    version = tmp_path / "models/street/1"
    assert (code, out.split()) == (0, [str(version)])
    assert "import TritonPythonModel" in (version / "model.py").read_text()
    with Segmenter.open(run) as ours, Segmenter.open(version / "bundle") as theirs:
        np.testing.assert_array_equal(ours(frame), theirs(frame))


def test_the_same_contract_again_is_the_next_version_and_what_was_tuned_stays(run: Path, tmp_path: Path) -> None:
    write_repository(RunDirectory(run), tmp_path, Request())
    config = tmp_path / "segpipe/config.pbtxt"
    tuned = config.read_text().replace("max_queue_size: 64", "max_queue_size: 7")
    config.write_text(tuned)
    (tmp_path / "segpipe/.segpipe-version/bundle").mkdir(parents=True)  # as a kill leaves it

    written = write_repository(RunDirectory(run), tmp_path, Request())

    assert written == [tmp_path / "segpipe/2"]
    assert config.read_text() == tuned
    assert sorted(path.name for path in (tmp_path / "segpipe").iterdir()) == ["1", "2", "config.pbtxt"]


def test_another_contract_is_no_version(run: Path, tmp_path: Path) -> None:
    write_repository(RunDirectory(run), tmp_path / "models", Request())
    other = RunDirectory(testing.make_run(tmp_path / "other", CONTRACT))

    with pytest.raises(InputError, match="is a model of another contract"):
        write_repository(other, tmp_path / "models", Request())
    assert not (tmp_path / "models/segpipe/2").exists()


def test_a_model_of_another_backend_gets_no_version(run: Path, tmp_path: Path) -> None:
    write_repository(RunDirectory(run), tmp_path, Request(bare=True))

    with pytest.raises(InputError, match="another contract or backend"):
        write_repository(RunDirectory(run), tmp_path, Request("segpipe_net"))
    assert not (tmp_path / "segpipe_net/2").exists()


@pytest.mark.parametrize("name", ["../out", "", ".hidden", "a/b", "a\nb", "x" * 101])
def test_a_name_that_leaves_the_repository_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="a model cannot be called"):
        write_repository(RunDirectory(run), tmp_path / "models", Request(name))
    assert not (tmp_path / "models").exists()


def test_a_folder_of_somebody_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "segpipe").mkdir()
    (tmp_path / "segpipe/notes.txt").write_text("mine")

    with pytest.raises(InputError, match=r"is there and holds no config\.pbtxt"):
        write_repository(RunDirectory(run), tmp_path, Request())
    assert [path.name for path in (tmp_path / "segpipe").iterdir()] == ["notes.txt"]


def test_variants_are_written_for_what_passed(tmp_path: Path) -> None:
    run = RunDirectory(with_engine(tmp_path / "run"))

    written = write_repository(run, tmp_path / "models", ON_GPU)

    names = [version.parent.name for version in written]
    assert names == ["segpipe", "segpipe_net", "segpipe_trt"]
    assert (written[2] / "model.plan").read_bytes() == run.artifact_bytes(BUILD, "model.tensorrt.engine")
    plan = config_of(written[2].parent)
    assert 'platform: "tensorrt_plan"' in plan
    assert f"max_batch_size: {LARGEST}\n" in plan
    assert "dims: [3, 32, 64]" in plan
    assert "dims: [4, 8, 16]" in plan


def test_the_one_graph_is_a_variant_that_takes_frames(tmp_path: Path) -> None:
    run = RunDirectory(with_end_to_end(tmp_path / "run"))

    written = write_repository(run, tmp_path / "models", Request(bare=True))

    assert [version.parent.name for version in written] == ["segpipe", "segpipe_net", "segpipe_graph"]
    graph = config_of(written[2].parent)
    assert (written[2] / "model.onnx").read_bytes() == run.artifact_bytes("export", "model.e2e.onnx")
    assert 'name: "frame"\n  data_type: TYPE_UINT8\n  dims: [-1, -1, 3]' in graph
    assert 'name: "confidence"\n  data_type: TYPE_FP32\n  dims: [-1, -1]' in graph


def test_what_passed_nowhere_gets_no_variant(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written = write_repository(RunDirectory(run), tmp_path, ON_GPU)

    assert [version.parent.name for version in written] == ["segpipe"]
    assert "triton: no model of model.onnx" in caplog.text


def test_a_bundle_gives_a_repository_too_and_its_engine_one_frame_at_a_time(tmp_path: Path) -> None:
    bundle = write_bundle(RunDirectory(with_engine(tmp_path / "run")), tmp_path / "bundle")

    written = write_repository(RunDirectory(bundle), tmp_path / "models", ON_GPU)

    assert "max_batch_size: 1\n" in config_of(written[2].parent)


@pytest.mark.parametrize("words", [("--gpu", "--backend", "onnxruntime-cpu"), ("--backend", "tensorrt")])
def test_a_backend_of_the_other_kind_is_wrong_usage(run: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    code, _, err = call("triton", run, "-o", tmp_path / "models", *words)

    assert (code, "runs on" in err) == (2, True)
    assert not (tmp_path / "models").exists()


def test_requests_that_meet_get_each_their_own_answer(run: Path) -> None:
    frames = [np.stack([testing.make_frame(40, 60, seed)[0] for seed in pair]) for pair in ((0, 1), (2,))]
    bad = np.zeros((1, 0, 4, 3), np.uint8)
    with Segmenter.open(run) as segmenter:
        alone = [np.stack([segmenter(frame) for frame in batch]) for batch in frames]
        first, refused, last = masks_of(segmenter, [frames[0], bad, frames[1]])

    assert isinstance(refused, InputError)
    np.testing.assert_array_equal(np.asarray(first), alone[0])
    np.testing.assert_array_equal(np.asarray(last), alone[1])
