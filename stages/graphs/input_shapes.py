"""The input shapes an engine takes: the config's ranges, compared with the contract and the graph's own dimensions."""

from collections.abc import Sequence

from segpipe.contract.schema import FrameContract
from segpipe.errors import ConfigError
from segpipe.runtime.trt.building import ShapeRange
from stages.config.root import BuildConfig, Profile

_OPEN_SIDES = (64, 512, 1024)  # heights where neither contract nor config says; widths are twice that
Dimensions = Sequence[int | None]
"""Of the graph's input: a number, or None where it is dynamic."""


def shape_ranges(
    contract: FrameContract, config: BuildConfig, graph: Dimensions | None = None
) -> tuple[ShapeRange, ...]:
    """One range an optimisation profile. `graph` fixes what the graph fixes."""
    if config.profiles:
        ranges = [_range(contract, profile) for profile in config.profiles]
        for found in ranges:
            _refuse_contradiction(found, graph)
        return tuple(ranges)
    whole = _range(contract, Profile(batch=(1, 1, config.max_batch)))
    return (_clamped(whole, graph),)


def _range(contract: FrameContract, profile: Profile) -> ShapeRange:
    heights, widths = (_sides(contract, profile, axis) for axis in (0, 1))
    shapes = [
        (batch, contract.channels, *size) if contract.input_layout == "nchw" else (batch, *size, contract.channels)
        for batch, *size in zip(profile.batch, heights, widths, strict=True)
    ]
    return ShapeRange(*shapes)


def _sides(contract: FrameContract, profile: Profile, axis: int) -> tuple[int, int, int]:
    """Smallest, typical and largest height (axis 0) or width (axis 1)."""
    name = ("height", "width")[axis]
    wanted = (profile.height, profile.width)[axis]
    if contract.network_size is not None:
        side = contract.network_size[axis]
        if wanted is not None and set(wanted) != {side}:
            raise ConfigError(
                f"build.profiles: {name} {list(wanted)} contradicts the contract, whose {name} is always {side}",
                hint=f"leave {name} out, or train with fit = 'pad' for frames of any size",
            )
        return (side, side, side)
    multiple = contract.size_multiple
    if wanted is None:
        small, typical, large = (-(-side * (axis + 1) // multiple) * multiple for side in _OPEN_SIDES)
        return small, typical, large
    for side in wanted:
        if side % multiple:
            below, above = side // multiple * multiple, -(-side // multiple) * multiple
            nearest = f"{below} and {above}" if below else f"{above}"
            raise ConfigError(
                f"build.profiles: {name} {side} is not a multiple of the network's {multiple}",
                hint=f"nearest that fit: {nearest}",
            )
    return wanted


def _refuse_contradiction(found: ShapeRange, graph: Dimensions | None) -> None:
    for shape in (found.smallest, found.typical, found.largest):
        if graph is not None and any(fixed not in (None, side) for fixed, side in zip(graph, shape, strict=True)):
            raise ConfigError(
                f"build.profiles: shape {'x'.join(map(str, shape))} does not fit the graph, whose input is "
                f"{'x'.join('?' if side is None else str(side) for side in graph)}",
                hint="use the graph's own numbers where it has them",
            )


def _clamped(found: ShapeRange, graph: Dimensions | None) -> ShapeRange:
    """What the graph fixes is not ours to choose."""
    if graph is None:
        return found
    smallest, typical, largest = (
        tuple(side if fixed is None else fixed for side, fixed in zip(shape, graph, strict=True))
        for shape in (found.smallest, found.typical, found.largest)
    )
    return ShapeRange(smallest, typical, largest)
