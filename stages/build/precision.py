"""The truth about precision: what share of the compute layers is FP16, and a failed build when it is too little."""

from collections.abc import Iterable
from typing import Any

from segpipe.artifacts import EIGHT_BITS
from segpipe.errors import BuildError
from segpipe.runtime.trt.building import BuiltEngine, Layer
from segpipe.runtime.trt.inspecting import half_nodes
from stages.config.root import BuildConfig, EnginePrecision
from stages.results.precision import form
from stages.results.quantisation import form as quantisation_form

_NAMED = 12  # layers named in an error


_FORM = form(BuildError)
_QUANTISATION = quantisation_form(BuildError)


def island_nodes(report: bytes) -> frozenset[str]:
    """Nodes that export kept in FP32 on purpose, from its precision.json."""
    described = _FORM.read(report, "the export's precision.json", "export the network again")
    return frozenset(island.node for island in described.islands)


def judge_precision(
    engine: BuiltEngine, config: BuildConfig, islands: frozenset[str], inspected: str | None = None
) -> dict[str, Any]:
    """Shares by the parsed network and by the engine's own account; too little FP16 fails and names the layers."""
    compute = [layer for layer in engine.layers if layer.node not in islands]
    wrong = [layer for layer in compute if layer.dtype != "HALF"]
    figures: dict[str, Any] = {
        "compute_layers": len(engine.layers),
        "fp32_island_layers": len(engine.layers) - len(compute),
        "fp16_share": _share(len(compute) - len(wrong), len(compute)),
    }
    if config.precision in EIGHT_BITS:
        return figures | _judge_eight_bits(engine, config, islands)
    if config.precision == "fp16":
        _refuse_too_little(figures["fp16_share"], compute, wrong, config, "the parsed network")
    if inspected is not None:
        said = half_nodes(inspected, {layer.node for layer in compute})
        slow = [layer for layer in compute if said.get(layer.node) is False]
        figures["inspected_layers"] = len(said)
        figures["inspected_fp16_share"] = _share(sum(said.values()), len(said))
        if config.precision == "fp16" and said:
            _refuse_too_little(figures["inspected_fp16_share"], said, slow, config, "the engine inspector")
    return figures


def kept_nodes(report: bytes, graph: EnginePrecision) -> frozenset[str]:
    """Layers that export left in floats, from its quantisation.json."""
    described = _QUANTISATION.read(report, "the export's quantisation.json", "export the network again")
    kept = {layer.node: layer.kept_for_fp8 if graph == "fp8" else layer.kept_for_engines for layer in described.layers}
    return frozenset(node for node, why in kept.items() if why)


def refuse_larger(plan_bytes: int, half_bytes: int, graph: EnginePrecision) -> None:
    """8 bits that are larger than FP16 are slower too: the builder has unrolled what it has no kernel for."""
    if plan_bytes > half_bytes:
        raise BuildError(
            f"the {graph.upper()} engine has {plan_bytes / 1e6:.2f} MB, FP16's {half_bytes / 1e6:.2f} MB",
            hint=f"likely grouped convolutions in {graph.upper()}, which TensorRT unrolls: name them in compress.keep "
            f"and export again, or leave {graph} out of build.precision",
        )


def _judge_eight_bits(engine: BuiltEngine, config: BuildConfig, kept: frozenset[str]) -> dict[str, Any]:
    """Counted by what feeds each layer. Whether its kernel has 8 bits only a GPU's inspector could tell."""
    kind = str(config.precision)
    meant = [layer for layer in engine.layers if layer.node not in kept]
    lacking = [layer.name for layer in meant if not layer.quantised]
    share = _share(len(meant) - len(lacking), len(meant))
    if share < config.min_int8_share:
        named = ", ".join(lacking[:_NAMED]) + (f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else "")
        raise BuildError(
            f"{share:.0%} of {len(meant)} compute layers are {kind.upper()}, build.min_int8_share is "
            f"{config.min_int8_share:.0%}; not in {kind.upper()}: {named}",
            hint="export again, name them in compress.keep if they must be floats, or lower build.min_int8_share",
        )
    return {f"{kind}_share": share, f"{kind}_layers": sum(layer.quantised for layer in engine.layers)}


def _refuse_too_little(
    share: float, compute: Iterable[object], wrong: list[Layer], config: BuildConfig, witness: str
) -> None:
    if share >= config.min_fp16_share:
        return
    named = ", ".join(f"{layer.name} ({layer.kind.lower()}, {layer.dtype})" for layer in wrong[:_NAMED])
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    raise BuildError(
        f"by {witness} {share:.0%} of {len(list(compute))} compute layers are FP16, build.min_fp16_share is "
        f"{config.min_fp16_share:.0%}; not in FP16: {named or 'none'}{more}",
        hint="export again, name them in export.fp32_islands if they must be FP32, or lower build.min_fp16_share",
    )


def _share(part: int, whole: int) -> float:
    """A network whose compute layers are all islands is as FP16 as it can be."""
    return round(part / whole, 4) if whole else 1.0
