"""Whether each class occurs where training and validation need it, from pixel counts that a reading already gave."""

import difflib
from collections.abc import Sequence

from stages.config.root import FolderData
from stages.data.faults import Fault
from stages.data.files import label_set
from stages.data.layout import FilesConfig


def class_faults(config: FilesConfig, split: str, pixels: Sequence[int], ignored: int) -> list[Fault]:
    """Classes without a pixel in this split, unless the config lets them be absent."""
    classes = label_set(config).classes
    if unknown := [name for name in config.absent_classes if name not in classes]:
        near = difflib.get_close_matches(unknown[0], classes, n=1)
        known = f"did you mean '{near[0]}'?" if near else f"the classes are {', '.join(classes)}"
        return [Fault(f"[data] absent_classes names '{unknown[0]}', which is not a class", known, split)]
    absent = [number for number, count in enumerate(pixels) if not count]
    if len(absent) == len(classes):
        hint = _remap_hint(config, ignored, 1.0, 1) or "check its masks, [data] remap and the ignore index"
        return [Fault(f"the {split} split holds no labelled pixel", hint, split)]
    allowed_absent = {*config.absent_classes, *config.unscored}
    names = [classes[number] for number in absent if classes[number] not in allowed_absent]
    if not names:
        return []
    remap = _remap_hint(config, ignored, ignored / (ignored + sum(pixels)), classes.index(names[0]))
    allowed = ", ".join(f'"{name}"' for name in (*config.absent_classes, *names))
    allow = f"for classes that may be absent set [data] absent_classes = [{allowed}]"
    message = f"the {split} split holds no pixel of {', '.join(map(repr, names))}"
    return [Fault(message, f"{remap}; {allow}" if remap else allow, split)]


def _remap_hint(config: FilesConfig, ignored: int, share: float, number: int) -> str:
    """The line that makes the ignored pixels a class; empty where they have no one value in the files."""
    labels = label_set(config)
    value = str(labels.ignore_index)
    is_index_mask = isinstance(config, FolderData) and config.masks_are == "indices"
    if not (ignored and is_index_mask) or value in config.remap:
        return ""
    return (
        f"{100 * share:.2g} % of its pixels are {value}, the ignore index: if they are '{labels.classes[number]}', "
        f'set [data] remap = {{ "{value}" = {number} }}'
    )
