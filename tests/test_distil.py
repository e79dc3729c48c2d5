"""Distillation: what the terms mean, who may teach, and that training with a teacher repeats and resumes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from torch import Tensor

from segpipe import testing
from segpipe.contract.schema import Contract
from segpipe.errors import ConfigError, InputError, SegpipeError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.preprocess import preprocess
from stages.config.file import load_config
from stages.config.root import Config
from stages.data import labels_of
from stages.models import build_network, checkpoint, reference
from stages.models.checkpoint import Trained
from stages.pipeline import Selection, run_stages
from stages.results.figures import TrainFigures, require
from stages.train import _key_parts
from stages.train.contract import contract_of
from stages.train.distillation import Guidance, cwd, kl, open_guidance, renormalised
from stages.train.learner import Learner, TrainingPlan
from stages.train.teachers import teacher_file
from tests.test_train_resume import stop_after
from tests.tiny import tiny_config

TRAIN = Selection(last="train")
SHORT = ("train.epochs=2", "data.train=8", "data.val=2", "data.test=2")
TAUGHT = (*SHORT, "compress.distil.teacher=../teacher")
ROUNDING = 1e-4  # of pixels that were normalised, brought back and normalised again, in float32


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return tmp_path / "student"


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A run with a network of the student's classes and another width, its weights as they were drawn."""
    return make_teacher(tmp_path / "teacher")


def make_teacher(path: Path, *settings: str, seed: int = 7) -> Path:
    """Its stage `train` made by hand."""
    config = tiny_config(path, "model.options={ width = 6 }", *settings)
    torch.manual_seed(seed)
    outputs = 1 if config.train.output == "sigmoid" else len(labels_of(config).classes)
    network = build_network(config.model, 3, outputs).eval()
    contract = contract_of(config, network)
    with RunDirectory.create(path).step("train", {"by": f"hand {seed}"}, {}) as step:
        data = checkpoint.to_bytes(Trained(network, contract, labels_of(config).palette), config.model)
        step.path(checkpoint.FILE_NAME).write_bytes(data)
        step.contract_sha256 = contract.sha256
    return path


def scores(seed: int = 0, channels: int = 5) -> Tensor:
    return torch.randn(2, channels, 6, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("term", [cwd, kl])
def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn(term: Any) -> None:
    ours = scores()

    assert float(term(ours, scores())) == pytest.approx(0, abs=1e-6)
    assert float(term(ours, scores(1))) > 0.01


def test_channel_wise_asks_where_a_class_is_and_pixel_wise_which_class_is_there() -> None:
    drawn = torch.Generator().manual_seed(0)
    by_class, by_place = torch.randn(1, 5, 1, 1, generator=drawn), torch.randn(1, 1, 6, 8, generator=drawn)

    assert float(cwd(scores() + by_class, scores())) == pytest.approx(0, abs=1e-6)
    assert float(kl(scores() + by_class, scores())) > 0.01
    assert float(kl(scores() + by_place, scores())) == pytest.approx(0, abs=1e-6)
    assert float(cwd(scores() + by_place, scores())) > 0.01


def test_one_channel_of_a_sigmoid_teaches_as_its_two_classes_would() -> None:
    ours, theirs = scores(0, 1), scores(1, 1)
    two = [torch.cat([torch.zeros_like(one), one], 1) for one in (ours, theirs)]

    assert float(kl(ours, theirs)) == pytest.approx(float(kl(*two)), rel=1e-6)
    assert float(kl(ours, theirs)) > 0.01


@pytest.mark.parametrize(
    "other",
    [
        {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)},
        {"channel_order": "bgr"},
        {"mean": (0.0,) * 3, "std": (1.0,) * 3, "value_range": (0.0, 1.0), "input_dtype": "uint8"},
    ],
    ids=["another mean", "bgr", "pixels as they are"],
)
def test_a_teacher_sees_the_crop_as_its_own_contract_has_it(other: dict[str, Any]) -> None:
    ours = Contract(classes=("a", "b"), network_size=(8, 12))
    theirs = Contract(**{**ours.model_dump(), **other})
    frame = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    place = ours.place(8, 12)
    seen, wanted = (reference.preprocess(frame, contract, place) for contract in (ours, theirs))

    found = renormalised(seen, ours, theirs)

    torch.testing.assert_close(found, wanted, rtol=0, atol=ROUNDING * float(wanted.abs().max()))
    assert torch.equal(renormalised(seen, ours, ours), seen)


def test_training_follows_the_teacher_and_records_it(teacher: Path, student: Path, tmp_path: Path) -> None:
    alone = run_stages(tmp_path / "alone", tiny_config(tmp_path / "alone", *SHORT), tmp_path / "alone", TRAIN)
    before = (teacher / "manifest.json").read_bytes()
    taught = run_stages(student, tiny_config(student, *TAUGHT), student, TRAIN)

    assert weights(taught).keys() == weights(alone).keys(), "the teacher is no part of the network"
    assert any((weights(taught)[name] != weights(alone)[name]).any() for name in weights(alone))
    assert (teacher / "manifest.json").read_bytes() == before
    record, figures = taught.record("train"), require(TrainFigures, taught).distilled
    assert record.inputs["teacher"] == RunDirectory(teacher).recorded("train", checkpoint.FILE_NAME).sha256
    assert figures is not None
    assert (figures.teacher, figures.kind, figures.teacher_sha256) == ("teacher", "cwd", record.inputs["teacher"])
    assert figures.plain() == f"distilled (cwd) from teacher, whose val mIoU is {figures.teacher_val_miou:.4f}"
    assert require(TrainFigures, taught).headline().endswith(figures.plain())


def weights(run: RunDirectory) -> dict[str, np.ndarray]:
    return load(run.artifact_bytes("train", checkpoint.FILE_NAME))


def test_a_taught_training_resumes_to_the_same_bytes(
    teacher: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (*TAUGHT, "compress.distil.kind=kl", "train.average=ema")
    whole = tmp_path / "whole"
    wanted = run_stages(whole, tiny_config(whole, *settings), whole, TRAIN).record("train").outputs

    stop_after(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_stages(student, tiny_config(student, *settings), student, TRAIN)
    monkeypatch.undo()
    (point,) = (student / "train").glob("*.partial/resume/epoch-00001.*.ckpt")
    kept = torch.load(point, weights_only=True)["state_dict"]
    run = run_stages(student, tiny_config(student, *settings), student, TRAIN)

    assert run.record("train").outputs == wanted
    assert {name.partition(".")[0] for name in kept} <= {"network", "_loss", "meter"}, "the teacher is in no checkpoint"


def test_the_learner_holds_no_tensor_of_its_teacher(teacher: Path, student: Path) -> None:
    config = tiny_config(student, *TAUGHT)
    guidance, contract = guided(config, student)
    plain, taught = (
        Learner(build_network(config.model, 3, 5), contract, config.train, TrainingPlan(1, None, str, found))
        for found in (None, guidance)
    )

    assert taught.state_dict().keys() == plain.state_dict().keys()
    assert len([*taught.parameters()]) == len([*plain.parameters()])


def guided(config: Config, base: Path) -> tuple[Guidance, Contract]:
    """The teacher opened for the student's contract."""
    contract = contract_of(config, build_network(config.model, 3, len(labels_of(config).classes)))
    assert isinstance(contract, Contract)
    file = teacher_file(config, base)
    assert file is not None
    return open_guidance(file, config, contract), contract


def test_opening_a_teacher_draws_no_random_number_of_the_training(teacher: Path, student: Path) -> None:
    config = tiny_config(student, *TAUGHT)
    contract = guided(config, student)[1]
    file = teacher_file(config, student)
    assert file is not None

    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    open_guidance(file, config, contract)

    assert torch.equal(torch.rand(1), wanted)


def graph_teacher(path: Path, **changes: Any) -> Path:
    """An ONNX file as teacher: one convolution, for the shapes' classes."""
    fields = {"classes": labels_of(tiny_config(path)).classes, "fit": "pad", "size_multiple": 4, "output_stride": 4}
    testing.make_run(path, Contract(**{**fields, **changes}))
    return path


def test_a_graph_teaches_by_the_scores_that_it_gives_in_deployment(student: Path, tmp_path: Path) -> None:
    graph_teacher(tmp_path / "teacher", mean=(0.1, 0.2, 0.3), channel_order="bgr")
    config = tiny_config(student, *TAUGHT)
    guidance, contract = guided(config, student)
    teacher = guidance.teacher
    frame = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    images = torch.from_numpy(preprocess(frame, contract, contract.place(64, 96)))[None].repeat(3, 1, 1, 1)
    own = torch.from_numpy(preprocess(frame, teacher.contract, teacher.contract.place(64, 96)))[None]

    found = guidance._scores(images)

    assert found.shape == (3, 5, 16, 24)
    torch.testing.assert_close(found[2:], teacher.answer(own), rtol=0, atol=1e-2)
    assert teacher.segment(frame).shape == (64, 96)


def test_a_graph_of_another_size_than_the_crops_is_refused_before_the_first_step(student: Path, tmp_path: Path) -> None:
    graph_teacher(tmp_path / "teacher", fit="stretch", network_size=(32, 32))

    with pytest.raises(ConfigError, match=r"takes no crop of 64 x 96: .*import it with open sizes"):
        guided(tiny_config(student, *TAUGHT), student)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ("a", "b", "c", "d", "e")}, r"the classes: \['a'.*, this run has \['background'"),
        ({"channels": 1, "mean": (0.5,), "std": (0.2,), "channel_order": "as_is"}, r"channels of a frame: 1, .* 3"),
        ({"dtype": "uint16"}, r"a frame's type: uint16, this run has uint8"),
    ],
    ids=["classes", "channels", "dtype"],
)
def test_a_teacher_for_other_data_is_refused(changes: dict[str, Any], said: str, student: Path, tmp_path: Path) -> None:
    graph_teacher(tmp_path / "teacher", **changes)

    with pytest.raises(ConfigError, match=said):
        guided(tiny_config(student, *TAUGHT), student)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output_kind": "labels"}, "answers with class numbers"),
        ({"output_kind": "sigmoid"}, "gives 1 channels of scores, this network 2"),
    ],
)
def test_a_teacher_without_scores_for_every_class_is_refused(changes: dict[str, Any], said: str) -> None:
    ours = Contract(classes=("a", "b"), network_size=(8, 12))

    class Anybody:
        contract = ours.model_copy(update=changes)

    with pytest.raises(ConfigError, match=said):
        Guidance(Anybody(), ours, "kl")  # type: ignore[arg-type]


def test_what_has_no_network_teaches_nobody_and_is_said_at_once(student: Path, tmp_path: Path) -> None:
    def refused(name: str) -> str:
        with pytest.raises(SegpipeError) as caught:
            run_stages(student, tiny_config(student, f"compress.distil.teacher={name}"), student, TRAIN)
        return f"{caught.value.message}; {caught.value.hint}"

    RunDirectory.create(tmp_path / "empty")
    (tmp_path / "folder").mkdir()

    assert "gone does not exist" in refused("../gone")
    assert "empty holds no network yet; make it first: `segpipe run" in refused("../empty")
    assert "is this run itself" in refused(".")
    assert "folder" in refused("../folder")
    assert not list(student.glob("train/*")), "nothing was begun"


@pytest.mark.parametrize("settings", [("compress.distil={}",), ("compress.distil.kind=mse",)])
def test_settings_that_name_no_teacher_or_no_kind_are_refused(settings: tuple[str, ...], student: Path) -> None:
    with pytest.raises(ConfigError, match=r"compress\.distil"):
        tiny_config(student, *settings)


def test_a_network_that_is_taken_as_it_is_learns_from_nobody(student: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[compress\.distil\] trains, and \[model\] trained is taken as it is"):
        tiny_config(student, "model.trained=weights.pth", "compress.distil.teacher=../teacher")


def test_an_imported_network_has_no_weights_to_teach(student: Path) -> None:
    config = tiny_config(student, "compress.distil.teacher=../teacher")
    with RunDirectory.create(student).step("import", {"model": "x"}, {}) as step:
        step.path("model.onnx").write_bytes(b"graph")

    with pytest.raises(InputError, match="an imported network: a graph without weights to train"):
        run_stages(student, config, student, Selection(first="export"))


def test_another_teacher_trains_again_and_another_place_of_it_does_not(teacher: Path, student: Path) -> None:
    def key(*settings: str) -> Any:
        return _key_parts(tiny_config(student, *settings), student, None)

    first = key(*TAUGHT)
    moved = teacher.rename(teacher.parent / "moved")

    assert key(*SHORT, "compress.distil.teacher=../moved") == first
    assert key(*SHORT, "compress.distil.teacher=../moved", "compress.distil.kind=kl") != first
    make_teacher(moved, seed=8)
    assert key(*SHORT, "compress.distil.teacher=../moved") != first
    assert "teacher" not in key(*SHORT)[0]
    assert not [name for name in key(*SHORT)[1] if name.startswith("compress")], "what has no teacher stays fresh"


def test_show_names_the_setting_that_made_a_training_stale(teacher: Path, student: Path) -> None:
    from segpipe.rundir.freshness import stale_against_config

    config = tiny_config(student, *TAUGHT, "compress.distil.kind=kl")
    rundir = RunDirectory.create(student)
    with rundir.step("train", {"by": "hand"}, config.training()) as step:
        step.path("model.safetensors").write_bytes(b"weights")
    told = {name: load_config(student, given).stored()["chosen"] for name, given in
            {"same": (*TAUGHT, "compress.distil.kind=kl"), "kind": TAUGHT, "gone": SHORT}.items()}  # fmt: skip
    whole = {name: {"compress": {}, **chosen} for name, chosen in told.items()}

    reasons = {name: stale_against_config(rundir.manifest, "train", chosen) for name, chosen in whole.items()}
    assert reasons["same"] is None
    assert reasons["kind"] == reasons["gone"] == "compress.distil.kind kl -> default"
