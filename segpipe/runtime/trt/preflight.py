"""Pre-flight: may this engine be deserialised here? Pure comparison of what the build recorded with what is here.

A plan is native code for one GPU and version; TensorRT itself says little more than 'failed' about a foreign one.
"""

from dataclasses import dataclass

from segpipe.errors import BackendError
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
    problems = []
    if built.system and built.system != here.system:
        problems.append(f"was built on {built.system}, this is {here.system}")
    if flavour == "tensorrt":
        if built.version and built.version != here.version:
            problems.append(f"was built with TensorRT {built.version}, {here.version} is installed")
        if built.gpu and built.gpu != here.gpu:
            problems.append(f"was built for {built.gpu}, this is {here.gpu}")
    elif built.compute_capabilities and capability not in built.compute_capabilities:
        wanted = ", ".join(built.compute_capabilities)
        problems.append(f"was built for compute capability {wanted}, {here.gpu} has {capability}")
    if problems:
        raise BackendError(f"the {flavour} engine {'; '.join(problems)}", hint=_command(flavour, capability, run))


def refuse_invalid(validity: str, diagnostics: list[str]) -> None:
    """What TensorRT for RTX itself says about an engine: VALID and SUBOPTIMAL run."""
    if validity == "INVALID":
        reasons = ", ".join(sorted(diagnostics)).lower() or "no reason given"
        raise BackendError(
            f"TensorRT for RTX says this engine cannot run here: {reasons}", hint="run `segpipe build` again"
        )


def _command(flavour: Flavour, capability: str, run: str) -> str:
    if flavour == "tensorrt":
        return f"run `segpipe build {run}` on this machine"
    return f"add '{capability}' to build.compute_capabilities and run `segpipe build {run}`"
