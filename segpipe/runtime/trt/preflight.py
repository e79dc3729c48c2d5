"""Pre-flight: may this engine be deserialised here? Pure comparison of what the build recorded with what is here.

A plan is native code for one GPU and version; TensorRT itself says little more than 'failed' about a foreign one.
"""

from dataclasses import dataclass

from segpipe.errors import BackendError, word
from segpipe.runtime.request import BuiltFor
from segpipe.runtime.trt import Flavour


@dataclass(frozen=True)
class Here:
    """This machine."""

    version: str
    gpu: str
    capability: tuple[int, int]
    system: str


def require_fit(flavour: Flavour, built: BuiltFor, here: Here, run: str) -> None:
    """Refuse an engine for another machine, naming the command that makes one for this. Unrecorded facts pass."""
    capability = f"{here.capability[0]}.{here.capability[1]}"
    system = built.system and built.system != here.system
    problems = [f"was built on {built.system}, this is {here.system}"] if system else []
    if flavour == "tensorrt":  # TensorRT for RTX is asked itself, see refuse_invalid
        problems += [*_other_version(built, here), *_other_gpu(built, here, capability)]
    if problems:
        raise BackendError(f"the {flavour} engine {'; '.join(problems)}", hint=f"run `segpipe build {word(run)}` here")


def _other_version(built: BuiltFor, here: Here) -> list[str]:
    """A plan is for one version, unless it was built to run on later ones, too."""
    if built.version is None or _numbers(built.version) == _numbers(here.version):
        return []
    if built.version_compatible and _numbers(here.version) >= _numbers(built.version):
        return []
    return [f"was built with TensorRT {built.version}, {here.version} is installed"]


def _other_gpu(built: BuiltFor, here: Here, capability: str) -> list[str]:
    """A plan is for one model of GPU, unless it was built for a family."""
    if built.gpu is None or built.gpu == here.gpu:
        return []
    if built.hardware_compatibility == "ampere-plus" and here.capability >= (8, 0):
        return []
    if built.hardware_compatibility == "same-compute-capability" and capability in built.compute_capabilities:
        return []
    return [f"was built for {built.gpu}, this is {here.gpu}"]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdecimal()]


def refuse_invalid(validity: str, reasons: str, built: BuiltFor) -> None:
    """What TensorRT for RTX itself says about an engine: VALID and SUBOPTIMAL run."""
    if validity == "INVALID":
        wanted = ", ".join(built.compute_capabilities) or "the GPUs that TensorRT for RTX takes by itself"
        raise BackendError(
            f"TensorRT for RTX says that this engine, built for {wanted}, cannot run here: {reasons}",
            hint="set build.compute_capabilities = [] and run `segpipe build` on this machine: it builds for its GPU",
        )
