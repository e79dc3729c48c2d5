"""A good run's parts, and what hops of them are made with: planted defects start here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segpipe.artifacts import FP16_GRAPH, FP32_GRAPH, Precision
from segpipe.contract.schema import Contract
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.opening import run_contract
from stages.tasks import offline_task_of
from stages.validate.hops.hop import Answer, Answered, Hop
from stages.validate.hops.inputs import Image
from stages.validate.hops.opening import open_graph
from stages.validate.hops.stored import StoredReference
from stages.validate.judging.judge import HopState, Judge, Setup
from tests.trained import edit_graph


@dataclass(frozen=True)
class Good:
    """A good run's parts, from which defective hops are made."""

    run: RunDirectory
    contract: Contract
    stored: StoredReference
    images: list[Image]

    @classmethod
    def of(cls, path: Path) -> "Good":
        """A validated run."""
        run = RunDirectory(path)
        stored = StoredReference(run)
        return cls(run, run_contract(run), stored, stored.images())

    def graph(self, name: str = "model.onnx") -> bytes:
        """One of its graphs."""
        return self.run.artifact_bytes("export", name)

    def runtime(self, graph: bytes, contract: Contract | None = None) -> Answer:
        """A graph through the runtime that production uses."""
        return open_graph(graph, contract or self.contract)

    def judge(self, answer: Answer, exact: bool = True, images: list[Image] | None = None) -> tuple[Judge, HopState]:
        """Hold an answer to the stored reference."""
        precision: Precision = "fp32" if exact else "fp16"
        graph = FP32_GRAPH if exact else FP16_GRAPH
        hop = Hop("planted", "export", graph, "0" * 64, "onnxruntime-cpu", "cpu", answer, precision)
        judge = Judge(self.setup, self.stored, [hop])
        for image in images or self.images:
            judge.add(image)
        judge.finish()
        return judge, judge.states["planted"]

    @property
    def setup(self) -> Setup:
        """As the run's own gate was set up."""
        index = self.stored.index
        return Setup(self.contract, index.settings, index.batches, rounding=self.stored.rounding())


def embedded(good: Good, **changes: Any) -> Answer:
    """The graph with a contract that was changed at deployment."""
    contract = Contract.model_validate({**good.contract.model_dump(), **changes})
    return good.runtime(edit_graph(good.graph(), lambda _, values: values, contract), contract)


def decided(contract: Contract, scores: np.ndarray | None, frame: np.ndarray) -> Answered:
    """Scores to a mask of the frame's size, by the definition."""
    assert scores is not None
    mask = offline_task_of(contract).decide(torch.from_numpy(scores)[None], contract.place(*frame.shape[:2]))
    return Answered(mask, scores)
