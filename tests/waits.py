"""Finds, without a GPU, what would make the host wait for one."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what a GPU would have to be waited for: a tensor's value asked for, or a shape that depends on one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.asked: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_mask = func.overloadpacket is torch.ops.aten.index and any(
            i is not None and i.dtype is torch.bool for i in args[1]
        )
        if is_mask or func.overloadpacket in {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero}:
            self.asked.append(str(func))
        return func(*args, **(kwargs or {}))
