"""What the build recorded of its engines, as far as the runtime reads it: the machine that each is for."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from segpipe.runtime.request import BuiltFor


class _Recorded(BaseModel):
    built_for: BuiltFor = BuiltFor()


def built_for(figures: Mapping[str, Any], backend: str) -> BuiltFor:
    """The machine of a backend's engine; as good as nothing where that is not what this version reads."""
    try:
        return _Recorded.model_validate(figures.get(backend) or {}).built_for
    except ValidationError:
        return BuiltFor()


def needed(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a build's figures that a bundle takes along, as it was recorded."""
    return {
        backend: {"built_for": entry["built_for"]}
        for backend, entry in figures.items()
        if isinstance(entry, dict) and "built_for" in entry
    }
