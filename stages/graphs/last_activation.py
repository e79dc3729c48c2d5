"""What the output went through last, compared with the kind that the contract says."""

import onnx

from segpipe.contract.schema import Contract
from segpipe.errors import ContractError

_MOVES = {
    *("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Resize", "Upsample"),
    *("Slice", "Gather", "Split"),
}
"""Operators that move or choose numbers: what a Softmax gave is still a share behind them."""
_ONE = "set output_kind = 'probabilities' and output_channels = 1, or export the network without it"
_MANY = "set output_kind = 'probabilities', or export the network without it"
_WRONG = {
    ("sigmoid", "Sigmoid"): _ONE, ("sigmoid", "HardSigmoid"): _ONE, ("sigmoid", "Softmax"): _ONE,
    ("logits", "Softmax"): _MANY,
}  # fmt: skip
"""Kind and operator that cannot be: raw scores have gone through neither. Behind a second sigmoid every pixel would be
foreground, behind a second softmax no class certain."""


def refuse_activation(graph: onnx.GraphProto, contract: Contract, source: str) -> None:
    """ContractError with what to write instead."""
    maker = last_maker(graph, contract.output_name)
    if hint := _WRONG.get((contract.output_kind, maker)):
        raise ContractError(
            f"{source}: output '{contract.output_name}' has gone through a {maker}, "
            f"output_kind '{contract.output_kind}' wants raw scores",
            hint=hint,
        )


def last_maker(graph: onnx.GraphProto, name: str) -> str:
    """The operator that computed the numbers of a tensor; empty for the input's or a weight's own."""
    makers = {output: node for node in graph.node for output in node.output if output}
    while node := makers.pop(name, None):  # each once: nobody has looked for circles yet
        if node.op_type not in _MOVES:
            return node.op_type
        name = node.input[0] if node.input else ""
    return ""
