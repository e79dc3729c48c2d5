"""PyTorch beside us in a benchmark: it tries what this machine can compute."""

import pytest
import torch

from segpipe import processor
from stages.benchmark import torch_peers


@pytest.mark.parametrize(("limit", "is_there"), [("ALL", True), ("AVX2", False)])
def test_half_precision_is_tried_on_a_processor_only_with_instructions_that_may_be_used(
    limit: str, is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_peers, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(processor, "features", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)

    if is_there:
        assert torch_peers.half_type() == torch.bfloat16
    else:
        with pytest.raises(NotImplementedError, match="bf16"):
            torch_peers.half_type()
