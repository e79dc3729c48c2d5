"""Whether the labelled data has the classes that an imported network answers."""

from itertools import zip_longest

from segpipe.contract.schema import AnyContract
from segpipe.errors import ContractError
from stages.data import Labels


def refuse_other_classes(contract: AnyContract, labels: Labels, source: str) -> None:
    """ContractError that names the first class that differs: IoU of other classes means nothing."""
    if contract.classes == labels.classes:
        return
    pairs = zip_longest(contract.classes, labels.classes)
    number, (ours, theirs) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
    raise ContractError(
        f"{source}: the network's contract has {len(contract.classes)} classes and [data] has {len(labels.classes)}: "
        f"class {number} is {_named(ours)} in the contract and {_named(theirs)} in [data]",
        hint="name the same classes in the same order in both; [data] remap gives label values their class numbers",
    )


def _named(name: str | None) -> str:
    return "missing" if name is None else f"{name!r:.60}"
