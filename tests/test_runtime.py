"""The runtime against the PyTorch definition, and what it refuses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segpipe import Segmenter
from segpipe.contract.schema import Contract
from segpipe.errors import ArtifactDamagedError, InputError, NotValidatedError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.postprocess import postprocess
from segpipe.runtime.preprocess import preprocess
from stages.models import checkpoint, reference
from tests.tiny import contract_fields

PRE_TOLERANCE = 1e-4  # OpenCV and PyTorch sum the four neighbours in another order
NEAR_TIE = 1e-5  # relative to the largest score: closer leads than this are decided by rounding

SIDES = st.integers(1, 70)
FITS = st.sampled_from(["stretch", "letterbox", "pad"])


def contract(fit: str, **changes: Any) -> Contract:
    """A contract with this geometry."""
    geometry = {"network_size": None, "size_multiple": 8} if fit == "pad" else {"network_size": (32, 48)}
    return Contract(**contract_fields(fit=fit, **{**geometry, **changes}))


@given(SIDES, SIDES, FITS, st.sampled_from(["rgb", "bgr"]), st.integers(0, 99))
def test_preprocessing_is_the_definition(height: int, width: int, fit: str, order: str, seed: int) -> None:
    wanted = contract(fit, channel_order=order)
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    placement = wanted.place(height, width)

    found = preprocess(frame, wanted, placement)
    assert np.abs(found - reference.preprocess(frame, wanted, placement).numpy()[0]).max() < PRE_TOLERANCE


@given(SIDES, SIDES, FITS, st.integers(2, 7), st.integers(0, 99))
def test_masks_are_the_definition(height: int, width: int, fit: str, classes: int, seed: int) -> None:
    wanted = contract(fit, classes=tuple(f"c{n}" for n in range(classes)))
    placement = wanted.place(height, width)
    scores = np.random.default_rng(seed).normal(size=(classes, *(side // 4 for side in placement.canvas))).astype("f4")

    found = postprocess(scores, wanted, placement)
    full = reference.upsample(torch.from_numpy(scores)[None], placement)
    best = full[0].topk(2, dim=0).values
    near_tie = ((best[0] - best[1]) < NEAR_TIE * np.abs(scores).max()).numpy()
    assert ((found == reference.decide(full, wanted)) | near_tie).all()
    assert found.dtype == np.uint8


@given(SIDES, SIDES, FITS, st.floats(0.05, 0.95), st.integers(0, 99))
def test_sigmoid_masks_are_the_definition(height: int, width: int, fit: str, threshold: float, seed: int) -> None:
    wanted = contract(fit, classes=("ground", "thing"), output_kind="sigmoid", threshold=threshold)
    placement = wanted.place(height, width)
    scores = np.random.default_rng(seed).normal(size=(1, *(side // 4 for side in placement.canvas))).astype("f4")

    full = reference.upsample(torch.from_numpy(scores)[None], placement)
    limit = float(np.log(threshold / (1 - threshold)))
    near_tie = np.abs(full.numpy()[0, 0] - limit) < NEAR_TIE * (np.abs(scores).max() + abs(limit))
    assert ((postprocess(scores, wanted, placement) == reference.decide(full, wanted)) | near_tie).all()


def test_layouts_and_types_of_foreign_networks() -> None:
    wanted = contract(
        "stretch", input_layout="nhwc", output_layout="nhwc", input_dtype="uint8",
        mean=(0.0,) * 3, std=(1.0,) * 3, value_range=(0.0, 1.0),
    )  # fmt: skip
    frame = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    placement = wanted.place(32, 48)
    scores = np.random.default_rng(0).normal(size=(3, 8, 12)).astype("f4")

    assert (preprocess(frame, wanted, placement) == frame).all()
    turned = postprocess(scores.transpose(1, 2, 0), wanted, placement)
    assert (turned == postprocess(scores, contract("stretch"), placement)).all()


def test_networks_that_answer_labels_are_sampled_at_the_nearest() -> None:
    wanted = contract("stretch", output_kind="labels")
    labels = np.arange(8 * 12).reshape(8, 12) % 3

    mask = postprocess(labels[None], wanted, wanted.place(16, 24))
    assert (mask == labels.repeat(2, 0).repeat(2, 1)).all()


@pytest.fixture(scope="module")
def segmenter(finished_run: Path) -> Iterator[Segmenter]:
    """The finished run, open."""
    with Segmenter.open(finished_run) as opened:
        yield opened


@settings(max_examples=20)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 99))
def test_a_whole_run_answers_as_pytorch_does(finished_run: Path, height: int, width: int, seed: int) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    trained = checkpoint.from_bytes(RunDirectory(finished_run).artifact_bytes("train", checkpoint.FILE_NAME))
    with Segmenter.open(finished_run) as opened:
        mask, contract = opened(frame), opened.contract

    wanted = reference.segment(trained.network, frame, contract)
    assert mask.shape == (height, width)
    assert (mask != wanted).mean() < 0.001  # ONNX Runtime and PyTorch sum in another order; near-ties may flip


def test_lists_and_streams_keep_their_order(segmenter: Segmenter) -> None:
    frames = [np.full((20 + n, 30, 3), 40 * n, np.uint8) for n in range(4)]
    one_by_one = [segmenter(frame) for frame in frames]

    for answers in (segmenter(frames), list(segmenter.stream(frames))):
        assert all((a == b).all() for a, b in zip(answers, one_by_one, strict=True))


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (None, "the frame is None. cv2.imread"),
        (np.zeros((4, 4, 3), np.float32), "the frame is float32 4x4x3, the contract wants uint8 HxWx3"),
        (np.zeros((4, 4, 2), np.uint8), "4x4x2"),
        (np.zeros((4, 4), np.uint8), "4x4, the contract wants"),
        (np.zeros((0, 4, 3), np.uint8), "the frame is empty"),
    ],
)
def test_wrong_frames_are_refused_and_the_segmenter_stays_usable(segmenter: Segmenter, frame: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        segmenter(frame)
    assert segmenter(np.zeros((4, 4, 3), np.uint8)).shape == (4, 4)


def test_a_closed_segmenter_says_so(finished_run: Path) -> None:
    opened = Segmenter.open(finished_run)
    opened.close()
    opened.close()

    with pytest.raises(InputError, match="closed"):
        opened(np.zeros((4, 4, 3), np.uint8))


def test_describe_names_what_runs(segmenter: Segmenter) -> None:
    said = segmenter.describe()

    assert said["backend"] == "onnxruntime-cpu"
    assert said["contract_sha256"] == segmenter.contract.sha256


def test_an_unknown_backend_is_refused(finished_run: Path) -> None:
    with pytest.raises(InputError, match=r"no backend 'tensorflow'.*onnxruntime-cpu"):
        Segmenter.open(finished_run, "tensorflow")


def test_a_changed_model_is_refused(run_copy: Path) -> None:
    model = RunDirectory(run_copy).artifact("export", "model.onnx")
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)

    with pytest.raises(ArtifactDamagedError, match="was changed after it was made"):
        Segmenter.open(run_copy)


def test_a_run_without_a_verdict_is_refused_until_it_is_allowed(run_copy: Path) -> None:
    manifest = RunDirectory(run_copy)
    stages = {name: record for name, record in manifest.manifest.stages.items() if name != "validate"}
    (run_copy / "manifest.json").write_text(
        manifest.manifest.model_copy(update={"stages": stages}).model_dump_json(by_alias=True)
    )

    with pytest.raises(NotValidatedError, match=r"no verdict for artifact .*segpipe validate"):
        Segmenter.open(run_copy)
    with Segmenter.open(run_copy, allow_unvalidated=True) as opened:
        assert opened(np.zeros((4, 4, 3), np.uint8)).shape == (4, 4)


def test_a_verdict_edited_by_hand_is_refused(run_copy: Path) -> None:
    path = RunDirectory(run_copy).artifact("validate", "verdicts.json")
    path.write_text(path.read_text().replace("not judged", "passed"))

    with pytest.raises(ArtifactDamagedError, match=r"verdicts\.json was changed"):
        Segmenter.open(run_copy)
