"""Writing ONNX nodes one after another: names are given here, and numbers become constants."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Value = str | int | np.ndarray | np.generic
"""A tensor by its name, a whole number, or constants."""


class Sheet:
    """Nodes in the order in which they were written; each gives the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, operator: str, *inputs: Value, named: str = "", **attributes: Any) -> str:
        """One node with one result, which is called `named` where somebody else knows it."""
        result = named or f"{operator}_{len(self.nodes)}"
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self.nodes.append(helper.make_node(operator, names, [result], name=result, **attributes))
        return result

    def cast(self, value: Value, to: int, named: str = "") -> str:
        """Another element type."""
        return self("Cast", value, to=to, named=named)

    def _constant(self, value: int | np.ndarray | np.generic) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name
