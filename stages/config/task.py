"""[task]: what the network is for, and what only networks for that task are told."""

from typing import Annotated, Literal

from pydantic import Field

from stages.config.section import Section


class SemanticConfig(Section):
    """A class for every pixel."""

    kind: Literal["semantic"] = "semantic"


class InstancesConfig(Section):
    """Things one by one: a box, a score, a class and a mask each, and beside them a class for every pixel."""

    kind: Literal["instances"]
    things: tuple[str, ...] = ()
    """Classes that are told one by one; empty: all but the first, which is the ground (Cityscapes: its own eight)."""
    masks: Literal["canvas", "none"] = "canvas"
    """none: boxes, scores and classes alone, as detectors give them."""
    top: Annotated[int, Field(ge=1, le=3840)] = 100
    """The most things that a frame's answer holds."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """The score from which a thing is an answer. Average precision counts unsure ones too; pictures and id maps show
    those of 0.4 and more."""


TaskConfig = Annotated[SemanticConfig | InstancesConfig, Field(discriminator="kind")]
