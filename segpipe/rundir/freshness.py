"""Why a stage is stale, in one line. Plain comparisons of records; knows no stage."""

from collections.abc import Mapping
from typing import Any

from segpipe.rundir.manifest import Manifest, StageRecord, logical_name


def why_stale(record: StageRecord | None, inputs: Mapping[str, str], params: Mapping[str, Any]) -> str:
    """Name the first differences between a record and what is wanted now."""
    if record is None:
        return "first run"
    changed = changed_values(record.params, params)
    changed = ["made by another segpipe" if line.startswith("stage_version ") else line for line in changed]
    recorded = {logical_name(path): digest for path, digest in record.inputs.items()}
    wanted = {logical_name(path): digest for path, digest in inputs.items()}
    changed += [
        f"{name} {'is new' if name not in recorded else 'is gone' if name not in wanted else 'changed'}"
        for name in sorted({*recorded, *wanted})
        if recorded.get(name) != wanted.get(name)
    ]
    if not changed:
        return "its files are damaged or missing"
    return "; ".join(changed[:3]) + (f"; and {len(changed) - 3} more" if len(changed) > 3 else "")


def changed_values(old: Any, new: Any, name: str = "") -> list[str]:
    """`train.epochs 3 -> 6` for every leaf that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted({*old, *new})
        return [line for key in keys for line in changed_values(old.get(key), new.get(key), f"{name}.{key}".strip("."))]
    return [] if old == new else [f"{name} {_short(old)} -> {_short(new)}"]


def stale_against_config(manifest: Manifest, stage: str, config: Mapping[str, Any] | None) -> str | None:
    """Why `stage` would run again, judged by the chosen config and the manifest alone; None when it would not."""
    record = manifest.stages[stage]
    changed = [
        line
        for section, recorded in record.params.items()
        if config is not None and section.partition(".")[0] in config
        for line in changed_values(recorded, _table(config, section), section)
    ]
    changed += [f"{name} changed" for name in moved_inputs(manifest, stage)]
    return "; ".join(changed[:3]) or None


def stale_by_descent(manifest: Manifest, stale: Mapping[str, str]) -> dict[str, str]:
    """`stale` (why, by stage) and every stage that was made from one of them, however far down."""
    reasons = dict(stale)
    while True:
        found = {
            stage: f"{source} is stale"
            for stage, record in manifest.stages.items()
            if stage not in reasons
            for source in _sources(record)
            if source in reasons
        }
        if not found:
            return reasons
        reasons |= found


def moved_inputs(manifest: Manifest, stage: str) -> list[str]:
    """The inputs of a finished stage that this run no longer holds as they were."""
    inputs = manifest.stages[stage].inputs
    return [logical_name(path) for path, digest in inputs.items() if _moved(manifest, path, digest)]


def _table(config: Mapping[str, Any], name: str) -> Any:
    """A table of the config; `compress.prune` is one inside another, and empty where nothing of it was chosen."""
    for part in name.split("."):
        config = config.get(part, {})
    return config


def _sources(record: StageRecord) -> list[str]:
    """The stages whose outputs it was made from."""
    return [path.partition("/")[0] for path in record.inputs if logical_name(path) != path]


def _moved(manifest: Manifest, path: str, digest: str) -> bool:
    """Whether the input is an output of this run that is no longer made with these bytes."""
    stage, _, name = logical_name(path).partition("/")
    if stage not in manifest.stages or not name:
        return False
    output = manifest.stages[stage].outputs.get(name)
    return output is None or output.sha256 != digest


def _short(value: Any) -> str:
    text = "default" if value in (None, {}) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
