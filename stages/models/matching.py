"""Which key of a weights file belongs to which key of a network. Knows names and shapes, no tensors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from segpipe.errors import InputError
from stages.models.parts import is_within

Shapes = Mapping[str, tuple[int, ...]]

_WRAPPERS = ("module.", "_orig_mod.", "network.", "model.", "")
_FILE_PREFIXES = ("", "backbone.", "encoder.", "features.", "encoder.model.")
_LISTED = 10


@dataclass(frozen=True)
class Target:
    """The network that weights are wanted for."""

    shapes: Shapes
    encoder: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    encoder_is_cut: bool = False
    """The network uses only the first levels of its encoder, so files may hold more of it."""


@dataclass(frozen=True)
class Match:
    """What goes where. Keys are the network's, except in `unused`."""

    taken: dict[str, str]
    """Key of the network -> key of the file."""
    stems: tuple[str, ...]
    """Taken, but fitted from 3 input channels to the network's."""
    left: tuple[str, ...]
    """The classifier (or, for an encoder's file, everything else): random still."""
    unused: tuple[str, ...]
    """Keys of the file that the network has no place for: its own classifier."""


def match(file: Shapes, target: Target, source: str) -> Match:
    """Find the prefixes under which most keys fit; refuse a file that leaves anything but the classifier open."""
    renamed, added = _best_renaming(file, target)
    fitting = {key for key in renamed if key in target.shapes and file[renamed[key]] == target.shapes[key]}
    stems = {key for key in renamed if key in target.shapes and _is_stem(file[renamed[key]], target.shapes[key])}
    taken = {key: renamed[key] for key in renamed if key in fitting | stems}
    if not fitting:
        raise _refusal(
            source, "fit no layer of this network", _listed(file, file), _listed(target.shapes, target.shapes)
        )
    wanted = _wanted(target, fitting)
    missing = [key for key in wanted if key not in renamed]
    mismatched = [key for key in wanted if key in renamed and key not in taken]
    unused = [key for key in renamed if key not in target.shapes]
    foreign = [] if target.encoder_is_cut else _foreign(unused, target.shapes, added)
    if missing or mismatched or foreign:
        raise _refusal(
            source,
            f"are not this network's weights: {len(missing)} missing, {len(mismatched)} of another shape, "
            f"{len(foreign)} unknown",
            "missing: " + _listed(missing, target.shapes) if missing else "",
            "shapes: " + _differences(mismatched, file, renamed, target.shapes) if mismatched else "",
            "unknown: " + _listed((renamed[key] for key in foreign), file) if foreign else "",
        )
    left = tuple(key for key in target.shapes if key not in taken and not key.endswith("num_batches_tracked"))
    return Match(taken, tuple(sorted(stems)), left, tuple(renamed[key] for key in unused))


def _best_renaming(file: Shapes, target: Target) -> tuple[dict[str, str], str]:
    """Network key -> file key under the prefixes that make most of them fit, and the prefix that was added."""
    best: tuple[int, dict[str, str], str] = (-1, {}, "")
    unwrapped = _unwrapped(file)
    for removed in _FILE_PREFIXES:
        for added in ("", *(f"{part}{inner}" for part in target.encoder for inner in (".", ".model.", ".features."))):
            renamed = {added + key.removeprefix(removed): original for key, original in unwrapped.items()}
            count = sum(file[original] == target.shapes.get(key) for key, original in renamed.items())
            if count > best[0]:
                best = (count, renamed, added)
    return best[1], best[2]


def _unwrapped(file: Shapes) -> dict[str, str]:
    """Keys without what DataParallel, torch.compile and Lightning put in front of every one of them."""
    names = {key: key for key in file}
    while prefix := next(w for w in _WRAPPERS if all(key.startswith(w) for key in names)):
        names = {key.removeprefix(prefix): original for key, original in names.items()}
    return names


def _wanted(target: Target, fitting: Iterable[str]) -> list[str]:
    """Keys that must be found: the encoder's when nothing else fits, otherwise all but the classifier's."""
    only_encoder = bool(target.encoder) and all(is_within(key, target.encoder) for key in fitting)
    return [
        key
        for key in target.shapes
        if not key.endswith("num_batches_tracked")
        and (is_within(key, target.encoder) if only_encoder else not is_within(key, target.head))
    ]


def _is_stem(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """A convolution over RGB where the network has another number of input channels."""
    same_rest = len(found) == len(wanted) == 4 and (found[0], *found[2:]) == (wanted[0], *wanted[2:])
    return same_rest and found[1] == 3 != wanted[1]


def _foreign(unused: Iterable[str], network: Shapes, added: str) -> list[str]:
    """Unused keys inside modules that the network has: the file's network is deeper, so it is another one."""
    modules = {key.removeprefix(added).partition(".")[0] for key in network if key.startswith(added)}
    return [key for key in unused if key.removeprefix(added).partition(".")[0] in modules]


def _refusal(source: str, problem: str, *details: str) -> InputError:
    text = "; ".join(detail for detail in details if detail)
    return InputError(
        f"[model] weights: the keys of {source} {problem}; {text}",
        hint="take the weights of the same architecture, or leave [model] weights out",
    )


def _listed(keys: Iterable[str], shapes: Shapes) -> str:
    names = list(keys)
    shown = ", ".join(f"{key} {list(shapes[key])}" for key in names[:_LISTED])
    return shown + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def _differences(keys: list[str], file: Shapes, renamed: Mapping[str, str], network: Shapes) -> str:
    shown = ", ".join(f"{key} {list(file[renamed[key]])}, wanted {list(network[key])}" for key in keys[:_LISTED])
    return shown + (f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else "")
