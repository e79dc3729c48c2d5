"""Distillation: what a trained network says of the same crops, as a term of the loss. Owns the teacher in training.

The teacher is no module of the learner: neither resume points nor the processes of a training know it.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from segpipe.artifacts import ON_CPU
from segpipe.contract.schema import Contract, FrameContract
from segpipe.errors import ConfigError
from segpipe.runtime.backends import load_opener
from segpipe.runtime.request import OpenOptions, Outputs
from stages.config.root import Config
from stages.models import checkpoint
from stages.models.checkpoint import Trained
from stages.tasks import offline_task_of
from stages.train.augment import crop_size
from stages.train.teachers import SETTING, TeacherFile

_CWD_TEMPERATURE, _CWD_WEIGHT = 4.0, 0.5
_KL_TEMPERATURE, _KL_WEIGHT = 2.0, 1.0
_LEAST_PROBABILITY = 1e-6  # its logarithm is still a score among scores


class Teacher(Protocol):
    """A network that is trained already, and stays as it is."""

    contract: Contract

    def answer(self, images: Tensor) -> Tensor:
        """Its own input tensor, batch x channels x height x width, to its raw output as batch x scores x h x w."""
        ...

    def segment(self, frame: NDArray[Any]) -> NDArray[Any]:
        """A frame to its mask."""
        ...


class Guidance:
    """The term that a teacher adds to the loss of a batch."""

    def __init__(self, teacher: Teacher, student: Contract, kind: str) -> None:
        _refuse_other_answers(teacher.contract, student)
        self.teacher, self._student = teacher, student
        self._term = {"cwd": cwd, "kl": kl}[kind]

    def __call__(self, images: Tensor, scores: Tensor) -> Tensor:
        """`scores`: the student's, of these normalised crops, at its own stride."""
        with torch.no_grad():
            wanted = self._scores(images)
            if wanted.shape[2:] != scores.shape[2:]:
                wanted = F.interpolate(wanted, scores.shape[2:], mode="bilinear", align_corners=False)
        return self._term(scores.float(), wanted)

    def refuse_other_crops(self, config: Config) -> None:
        """Before the first step: the teacher must answer crops of the sizes that training has."""
        train = config.train
        for size in {crop_size(train, self._student, epoch) for epoch in (0, train.epochs - 1)}:
            sides = f"{size[0]} x {size[1]}"
            try:
                found = self._scores(torch.zeros(1, self._student.channels, *size))
            except Exception as error:  # whatever somebody else's network raises
                reason = (str(error).splitlines() or ["no reason given"])[0]
                raise ConfigError(
                    f"{SETTING} takes no crop of {sides}: {type(error).__name__}: {reason}",
                    hint="set train.crop_height and crop_width to what it takes, or import it with open sizes",
                ) from error
            if not torch.isfinite(found).all():
                raise ConfigError(f"{SETTING} answers a crop of zeros with NaN or infinity", hint="name another run")

    def _scores(self, images: Tensor) -> Tensor:
        contract = self.teacher.contract
        answer = self.teacher.answer(renormalised(images, self._student, contract)).float()
        if contract.output_kind != "probabilities":
            return answer
        shares = answer.clamp(_LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
        return shares.logit() if contract.score_channels == 1 else shares.log()


def open_guidance(file: TeacherFile, config: Config, student: FrameContract) -> Guidance:
    """The teacher that the config names, ready to be asked, or why it cannot teach this student."""
    assert config.compress.distil is not None
    if not isinstance(student, Contract):
        raise ConfigError(f"{SETTING}: nothing teaches the task '{student.task}'", hint="leave [compress.distil] out")
    with torch.random.fork_rng(devices=[]):  # building a network draws its first weights
        teacher = _open_teacher(file, config.train.threads)
    guidance = Guidance(teacher, student, config.compress.distil.kind)
    guidance.refuse_other_crops(config)
    return guidance


def guided_by(teacher: Trained, config: Config, student: FrameContract) -> Guidance:
    """What a network of this very training teaches, channel-wise."""
    assert isinstance(student, Contract)
    guidance = Guidance(_TorchTeacher(teacher), student, "cwd")
    guidance.refuse_other_crops(config)
    return guidance


def cwd(student: Tensor, teacher: Tensor) -> Tensor:
    """Channel-wise: each class is a distribution over the places (Shu et al., 2021); mean over classes and crops."""
    ours, theirs = (F.log_softmax(scores.flatten(2) / _CWD_TEMPERATURE, 2) for scores in (student, teacher))
    return _CWD_WEIGHT * _CWD_TEMPERATURE**2 * _divergence(ours, theirs).sum(2).mean()


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Pixel-wise: each place is a distribution over the classes (Hinton et al., 2015); mean over places."""
    ours, theirs = (F.log_softmax(_of_two(scores) / _KL_TEMPERATURE, 1) for scores in (student, teacher))
    return _KL_WEIGHT * _KL_TEMPERATURE**2 * _divergence(ours, theirs).sum(1).mean()


def renormalised(images: Tensor, before: FrameContract, after: FrameContract) -> Tensor:
    """Crops as one contract has them, as another one wants them."""
    names = ("mean", "std", "value_range", "input_dtype")
    turned = (before.channel_order == "bgr") != (after.channel_order == "bgr")
    if not turned and all(getattr(before, name) == getattr(after, name) for name in names):
        return images
    pixels = images * _by_channel(before.std, images) + _by_channel(before.mean, images)
    low, high = before.value_range
    pixels = pixels * (high - low) + low
    low, high = after.value_range
    wanted = ((pixels.flip(1) if turned else pixels) - low) / (high - low)
    wanted = (wanted - _by_channel(after.mean, images)) / _by_channel(after.std, images)
    return wanted.round().clamp(0, 255) if after.input_dtype == "uint8" else wanted


def _by_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    return like.new_tensor(values).view(1, -1, 1, 1)


def _divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    return F.kl_div(ours, theirs, log_target=True, reduction="none")


def _of_two(scores: Tensor) -> Tensor:
    """A sigmoid's one channel as the two of a softmax."""
    return scores if scores.shape[1] > 1 else torch.cat([torch.zeros_like(scores), scores], 1)


class _TorchTeacher:
    """A network of ours."""

    def __init__(self, trained: Trained) -> None:
        if not isinstance(trained.contract, Contract):
            raise ConfigError(
                f"{SETTING} is a network for the task '{trained.contract.task}'", hint="name one that gives masks"
            )
        self.contract = trained.contract
        self._network = trained.network.requires_grad_(False).to(memory_format=torch.channels_last)
        self._task = offline_task_of(trained.contract)

    def answer(self, images: Tensor) -> Tensor:
        scores: Tensor = self._network.to(images.device)(images.contiguous(memory_format=torch.channels_last))
        return scores

    def segment(self, frame: NDArray[Any]) -> NDArray[Any]:
        mask: NDArray[Any] = self._task.segment(self._network, frame)
        return mask


class _OnnxTeacher:
    """An imported graph, run on the CPU one crop at a time: its batch may be fixed."""

    def __init__(self, graph: bytes, contract: Contract, threads: int) -> None:
        self.contract = contract
        self._backend: Any = load_opener(ON_CPU.name)(graph, contract, OpenOptions(threads=threads))

    def answer(self, images: Tensor) -> Tensor:
        contract = self.contract
        tensors = images.cpu().numpy().astype(contract.input_dtype)[:, None]
        if contract.input_layout == "nhwc":
            tensors = np.ascontiguousarray(tensors.transpose(0, 1, 3, 4, 2))
        answered = np.concatenate([self._backend.scores(tensor)[:1] for tensor in tensors])
        if contract.output_layout == "nhwc":
            answered = answered.transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(answered, np.float32)).to(images.device)

    def segment(self, frame: NDArray[Any]) -> NDArray[Any]:
        mask: NDArray[Any] = self._backend.infer([frame], Outputs())[0].mask
        return mask


def _open_teacher(file: TeacherFile, threads: int) -> Teacher:
    data = file.read()
    if file.stage == "train":
        return _TorchTeacher(checkpoint.from_bytes(data))
    metadata = {entry.key: entry.value for entry in onnx.load_model_from_string(data).metadata_props}
    return _OnnxTeacher(data, Contract.from_metadata(metadata, f"the teacher {file.name}"), threads)


def _refuse_other_answers(teacher: Contract, student: Contract) -> None:
    """What the teacher says must be said of the same classes, of frames of the same kind, in scores."""
    same: dict[str, Callable[[Contract], Any]] = {
        "the classes": lambda contract: list(contract.classes),
        "channels of a frame": lambda contract: contract.channels,
        "a frame's type": lambda contract: contract.dtype,
    }
    for what, value in same.items():
        if value(teacher) != value(student):
            raise ConfigError(
                f"{SETTING}: {what}: {_shortened(value(teacher))}, this run has {_shortened(value(student))}",
                hint="name a teacher that was trained for the same data",
            )
    if teacher.output_kind == "labels":
        raise ConfigError(
            f"{SETTING} answers with class numbers, and scores are what is learned from",
            hint="import it again without its argmax",
        )
    if teacher.score_channels != student.score_channels:
        raise ConfigError(
            f"{SETTING} gives {teacher.score_channels} channels of scores, this network {student.score_channels}",
            hint='give both the same [train] output, "softmax" or "sigmoid"',
        )


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
