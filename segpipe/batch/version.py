"""A version: the folder of all that one artifact makes with one set of options. Another one gets another folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel, TypeAdapter

from segpipe.batch.stores import Store
from segpipe.contract.schema import InstanceContract
from segpipe.documents import Form
from segpipe.errors import ContractError, InputError
from segpipe.palette import Colours
from segpipe.predicting.done import Source
from segpipe.predicting.job import CONFIDENCE, MASKS, THINGS, AnySegmenter, Job
from segpipe.rundir.storage import sha256_of_bytes
from segpipe.runtime.instance_segmenter import InstanceSegmenter

FILE_NAME = "batch.json"
Output = Literal["mask", "confidence", "rle"]
OUTPUTS: tuple[Output, ...] = get_args(Output)


class Noted(BaseModel):
    """What is read of a Version that was written."""

    format: Literal[1]
    backend: str
    classes: tuple[str, ...]
    palette: Colours
    options: Mapping[str, Any] = {}

    @property
    def of_things(self) -> bool:
        """Whether masks are id maps."""
        return self.options.get("task") == InstanceContract.task


_FORM = Form("description of a batch", TypeAdapter(Noted), InputError)


@dataclass(frozen=True)
class Version:
    """What decides the results of every image alike."""

    artifact_sha256: str
    contract_sha256: str
    backend: str
    options: Mapping[str, Any]
    outputs: tuple[Output, ...]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, segmenter: AnySegmenter, job: Job, outputs: tuple[Output, ...]) -> "Version":
        """Of what is opened. The device is left out: a verdict covers each, and many work on one version."""
        if not segmenter.artifact_sha256:
            raise ContractError("this segmenter has no artifact's hash", hint="open it with Segmenter.open")
        if isinstance(segmenter, InstanceSegmenter) and (job.geotiff or job.confidence):
            what = "not written as GeoTIFF" if job.geotiff else "without a confidence of each pixel"
            raise InputError(f"things are {what}", hint="leave out --geotiff, and confidence of --outputs")
        origin = job.origin(segmenter, Source("", 0, ""), MASKS)
        options = dict(origin.options) | ({"geotiff": True} if job.geotiff else {})
        if isinstance(segmenter, InstanceSegmenter):
            options["task"] = segmenter.contract.task
        return cls(
            origin.artifact_sha256, origin.contract_sha256, origin.backend, options,
            tuple(sorted({*outputs})), segmenter.contract.classes, segmenter.palette,
        )  # fmt: skip

    @property
    def beside(self) -> tuple[str, ...]:
        """Folders of what each image has beside its mask."""
        confidence = (CONFIDENCE,) if "confidence" in self.outputs else ()
        return (*confidence, *([THINGS] if "task" in self.options else ()))

    @property
    def folder(self) -> str:
        """Its name below the output: the artifact's hash, and what stands for the rest."""
        decides = {name: value for name, value in vars(self).items() if name != "palette"}
        return f"{self.artifact_sha256[:12]}-{sha256_of_bytes(json.dumps(decides, sort_keys=True).encode())[:8]}"

    def write(self, store: Store) -> None:
        """Say in the folder what it is of."""
        if store.entry(FILE_NAME) is None:
            store.write(FILE_NAME, json.dumps({"format": 1, **vars(self)}, indent=2).encode("ascii"))


def noted(store: Store) -> Noted:
    """What the folder says that it is of."""
    name, hint = store.address(FILE_NAME), "delete it, and give the batch again"
    found = _FORM.read(store.read(FILE_NAME).data, name, hint)
    if len(found.palette) != len(found.classes):
        raise InputError(f"{name} has {len(found.palette)} colours for {len(found.classes)} classes", hint=hint)
    return found
