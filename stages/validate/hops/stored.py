"""The stored reference: some images with the reference's answers, for machines that have an engine but no PyTorch."""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveInt, TypeAdapter

from segpipe.contract.schema import AnyContract, Contract
from segpipe.documents import Form
from segpipe.errors import ArtifactMissingError, InputError, word
from segpipe.local_verdicts import ARRAYS, FRAMES, INDEX, REPORT
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.storage import sha256_of_bytes
from segpipe.runtime.opening import any_contract
from segpipe.verdict import STAGE
from stages.config.root import ValidateConfig
from stages.results.gate import GateReport, read_report
from stages.validate.hops.hop import Answered
from stages.validate.hops.inputs import RESIZED, Image, frame_sha256
from stages.validate.hops.kept import WHOLE, Kept
from stages.validate.hops.stored_things import arrays_of, things_in
from stages.validate.judging.aside import array_aside
from stages.validate.judging.judge import Setup
from stages.validate.judging.rounding import ImageRounding, Rounding

_FIRST_LIMITS = {
    *("min_agreement", "min_image_agreement", "max_flips_inside", "max_flips_boundary", "max_large_margin_flips"),
    *("max_iou_drop", "max_relative_l2", "max_relative_l2_fp32", "max_stress_relative_l2", "max_fp16_range"),
    "min_reference_miou_share",
}
"""Those that every version had. A later one counts only where it is set: verdicts that older versions gave rest on the
same basis, and so does a limit that somebody adds."""


class StoredImage(BaseModel):
    """One image of the stored reference; its arrays carry its number in their names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    stress: bool
    frame_sha256: str
    has_labels: bool
    has_scores: bool
    scores_shape: tuple[int, ...] = ()
    """Of scores that were too large to be kept whole; empty where they were not."""
    scores_step: PositiveInt = 1
    """Which of their pixels were kept: every so many."""
    rounding: ImageRounding | None = None
    """What rounding alone did to the answer."""


class StoredIndex(BaseModel):
    """What reference.npz and frames.npz hold, and how the gate that wrote them judged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    reference: str
    contract_sha256: str
    basis_sha256: str
    settings: ValidateConfig
    batches: tuple[int, ...]
    images: tuple[StoredImage, ...]


_FORM = Form("stored reference", TypeAdapter(StoredIndex), InputError)


@dataclass
class Keeper:
    """Collects images and answers while the gate runs: the first few images, and every stress input."""

    wanted: int
    contract: AnyContract
    large_margin: float
    _count: int = 0
    _numbers: list[int] = field(default_factory=list)
    _images: list[Image] = field(default_factory=list)
    _answers: list[Answered] = field(default_factory=list)
    _hashes: list[str] = field(default_factory=list)

    def add(self, image: Image, answered: Answered) -> None:
        """Hash every image but one that older versions did not make of the others; keep a few."""
        if not (image.stress and image.name == RESIZED):
            self._hashes.append(image.sha256)
        if image.labels is not None:
            self._hashes.append(sha256_of_bytes(np.ascontiguousarray(image.labels).tobytes()))
        if image.stress or sum(not kept.stress for kept in self._images) < self.wanted:
            self._numbers.append(self._count)
            labels = None if image.labels is None else array_aside(image.labels)
            self._images.append(replace(image, frame=array_aside(image.frame), labels=labels))
            reduced = self._reduced(answered)
            self._answers.append(replace(reduced, mask=array_aside(reduced.mask)))
        self._count += 1

    def _reduced(self, answered: Answered) -> Answered:
        """Without large scores: eighteen of them would be more than all the rest of a run."""
        if answered.scores is None or answered.scores.size <= WHOLE:
            return answered
        if not isinstance(self.contract, Contract):
            maps = Kept.without_margins(answered.scores, answered.mask.shape[:2])
            return Answered(answered.mask, None, maps, replace(answered.things, dense={}) if answered.things else None)
        kept = Kept.of(answered.scores, answered.mask.shape[:2], self.contract, self.large_margin)
        return Answered(answered.mask, None, kept)

    def basis_sha256(self, settings: ValidateConfig) -> str:
        """Hash of what was judged on: frames, labels, limits."""
        rules = settings.model_dump(mode="json", exclude={"pictures", "reference_images"}, exclude_none=True)
        counting = _FIRST_LIMITS | settings.limits.model_fields_set
        rules["limits"] = {name: limit for name, limit in rules["limits"].items() if name in counting}
        return sha256_of_bytes(json.dumps([self._hashes, rules], sort_keys=True).encode())

    def files(self, reference: str, setup: Setup, roundings: Sequence[ImageRounding | None] = ()) -> dict[str, bytes]:
        """The stored reference as files by name. `roundings`: of every image that was added, in order."""
        known = [roundings[number] if roundings else None for number in self._numbers]
        index = StoredIndex(
            reference=reference,
            contract_sha256=setup.contract.sha256,
            basis_sha256=self.basis_sha256(setup.settings),
            settings=setup.settings,
            batches=setup.batches,
            images=tuple(map(_described, self._images, self._answers, known)),
        )
        arrays: dict[str, NDArray[Any]] = {}
        for number, (image, answered) in enumerate(zip(self._images, self._answers, strict=True)):
            arrays[f"mask_{number}"] = answered.mask
            if answered.things is not None:
                arrays |= arrays_of(answered.things, number)
            if answered.scores is not None:
                arrays[f"scores_{number}"] = answered.scores
            if answered.kept is not None:
                arrays[f"sample_{number}"] = answered.kept.values
                arrays[f"margins_{number}"] = answered.kept.codes
            if image.labels is not None:
                arrays[f"labels_{number}"] = image.labels
        frames = {f"frame_{number}": image.frame for number, image in enumerate(self._images)}
        text = index.model_dump_json(indent=2).encode()
        return {INDEX: text, ARRAYS: _packed(arrays), FRAMES: _packed(frames)}


class StoredReference:
    """Answers frames that it knows with what the reference once said."""

    def __init__(self, rundir: RunDirectory) -> None:
        self.index = stored_index(rundir)
        self._arrays = _unpacked(_read(rundir, ARRAYS))
        self._frames = _unpacked(_read(rundir, FRAMES))
        self._numbers = {stored.frame_sha256: number for number, stored in enumerate(self.index.images)}
        wanted = rundir.manifest.contract_sha256
        if self.index.contract_sha256 != wanted:
            raise InputError(
                f"the stored reference is of contract {self.index.contract_sha256[:12]}, the run has {wanted}",
                hint=_again(rundir),
            )
        self._contract = any_contract(rundir)

    def images(self) -> list[Image]:
        """The stored frames, compared with the hashes of those that the reference answered."""
        found = []
        for number, stored in enumerate(self.index.images):
            frame = self._frames[f"frame_{number}"]
            if frame_sha256(frame) != stored.frame_sha256:
                raise InputError(f"{FRAMES}: {stored.name} is not the frame the reference saw", hint="validate again")
            labels = self._arrays[f"labels_{number}"] if stored.has_labels else None
            found.append(Image(stored.name, frame, labels, stored.stress))
        return found

    def __call__(self, frames: Sequence[NDArray[Any]]) -> list[Answered]:
        """What the reference said of these frames."""
        return [self._answered(self._numbers[frame_sha256(frame)]) for frame in frames]

    def _answered(self, number: int) -> Answered:
        mask, scores = self._arrays[f"mask_{number}"], self._arrays.get(f"scores_{number}")
        height, width = mask.shape
        things = things_in(self._arrays, number, self._contract, (height, width))
        return Answered(mask, scores, self._kept(number), things)

    def rounding(self) -> Rounding | None:
        """What rounding alone does on these images; None where an older gate stored them."""
        return Rounding.over([stored.rounding for stored in self.index.images])

    def _kept(self, number: int) -> Kept | None:
        stored = self.index.images[number]
        if not stored.scores_shape:
            return None
        sample, codes = (self._arrays[f"{name}_{number}"] for name in ("sample", "margins"))
        return Kept(stored.scores_shape, stored.scores_step, sample, codes)


def stored_index(rundir: RunDirectory) -> StoredIndex:
    """What the stored reference says of itself."""
    return _FORM.read(_read(rundir, INDEX), f"{STAGE}/{INDEX} of {rundir.path}", _again(rundir))


def stored_report(rundir: RunDirectory) -> GateReport:
    """What the gate found where it ran."""
    return read_report(_read(rundir, REPORT), f"{STAGE}/{REPORT} of {rundir.path}", _again(rundir))


def _described(image: Image, answered: Answered, rounding: ImageRounding | None) -> StoredImage:
    kept = answered.kept
    return StoredImage(
        name=image.name,
        stress=image.stress,
        frame_sha256=image.sha256,
        has_labels=image.labels is not None,
        has_scores=answered.gives_scores,
        scores_shape=kept.shape if kept else (),
        scores_step=kept.step if kept else 1,
        rounding=rounding,
    )


def _read(rundir: RunDirectory, name: str) -> bytes:
    if STAGE not in rundir.manifest.stages or name not in rundir.record(STAGE).outputs:
        raise ArtifactMissingError(
            f"{rundir.path} holds no stored reference ({STAGE}/{name})",
            hint=_again(rundir),
        )
    return rundir.artifact_bytes(STAGE, name)


def _again(rundir: RunDirectory) -> str:
    """The commands that store a reference anew."""
    if rundir.manifest.is_bundle:
        return rundir.how_to_make(STAGE)
    return f"run `segpipe validate {word(rundir.path)} --force` where PyTorch is installed, then copy the run directory"


def _packed(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Compressed, and the same bytes for the same arrays: zip entries carry no time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), entry.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _unpacked(data: bytes) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return dict(archive)
