"""[compress]: what makes a network smaller or better than plain training would."""

from typing import Annotated, Literal

from pydantic import Field

from stages.config.section import Section


class DistilConfig(Section):
    """Distillation: training also follows the scores of a larger network that is trained already."""

    teacher: Annotated[str, Field(min_length=1)]
    """The teacher's run directory, relative to the TOML file: trained, adopted or imported, for the same classes."""
    kind: Literal["cwd", "kl"] = "cwd"
    """What is followed: for each class where in the frame it is likely (channel-wise), or for each pixel which class
    is."""


class CompressConfig(Section):
    """Smaller and better networks. Without its tables, nothing here happens."""

    distil: DistilConfig | None = None
