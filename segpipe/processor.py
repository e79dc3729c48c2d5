"""This machine's processor: its name, the instruction sets that narrow numbers need, and what verdicts call it."""

import os
import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from segpipe.artifacts import Precision

CPU = "cpu"
_VECTORS = ("amx", "avx", "f16c", "fma", "asimd", "sve", "bf16", "i8mm")
"""How the instruction sets begin that decide how fast a network is."""
_INFO = Path("/proc/cpuinfo")
_SETS: dict[Precision, dict[str, str]] = {
    "bf16": {"amx_bf16": "amx-bf16", "avx512_bf16": "avx512-bf16", "bf16": "arm-bf16"},
    "int8": {
        "amx_int8": "amx-int8", "avx512_vnni": "avx512-vnni", "avx_vnni": "avx-vnni", "avx512bw": "avx512",
        "avx2": "avx2", "i8mm": "arm-i8mm", "asimddp": "arm-dotprod", "asimd": "arm",
    },
}  # fmt: skip
"""The kernel's name of each instruction set, fastest first, and what it is called here."""
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables by which people keep oneDNN, which computes bf16, from instructions that the processor has."""
_ALLOWING = {
    "avx512_bf16": ("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX10"),
    "amx_bf16": ("AVX512_CORE_AMX",),
    "amx_int8": ("AVX512_CORE_AMX",),
    "avx512_vnni": ("AVX512_CORE_VNNI", "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX10"),
    "avx512bw": ("AVX512_CORE", "AVX10"),
    "avx_vnni": ("AVX2_VNNI", "AVX512_CORE_VNNI", "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX10"),
    "avx2": ("AVX2", "AVX512", "AVX10"),
}
"""How limits begin that still allow a set."""


def processor() -> str:
    """The processor's own name for itself."""
    return next(_fields("model name"), "") or platform.machine()


@cache
def features() -> frozenset[str]:
    """What the kernel says that the first core can do; nothing where it does not say."""
    return frozenset((next(_fields("flags"), "") or next(_fields("Features"), "")).split())


def vector_sets() -> str:
    """What the processor has of them, as the kernel names it."""
    return " ".join(sorted(flag for flag in features() if flag.startswith(_VECTORS)))


def instruction_set(precision: Precision) -> str:
    """What this processor computes that precision with; empty where it needs none, or has none."""
    return next(
        (name for flag, name in _SETS.get(precision, {}).items() if flag in features() and _is_allowed(flag)), ""
    )


def _is_allowed(flag: str) -> bool:
    limit = next((os.environ[name].upper() for name in _LIMITS if os.environ.get(name)), "ALL")
    return limit in {"ALL", "DEFAULT"} or flag not in _ALLOWING or limit.startswith(_ALLOWING[flag])


def computes(precision: Precision) -> bool:
    """Whether this processor has instructions for it; libraries would emulate it in FP32 otherwise."""
    return precision == "fp32" or bool(instruction_set(precision))


def device_name(precision: Precision) -> str:
    """The device of a verdict: `cpu`, with the instruction set where another one gives other numbers."""
    return f"{CPU} {instruction_set(precision)}".rstrip()


def is_cpu(device: str) -> bool:
    """Whether a verdict's device is a processor, with whichever instruction set."""
    return device.partition(" ")[0] == CPU


def wanted_sets(precision: Precision) -> tuple[str, ...]:
    """The instruction sets any of which would do."""
    return tuple(_SETS.get(precision, {}).values())


def _fields(name: str) -> Iterator[str]:
    """The values of one field of /proc/cpuinfo, a core each."""
    lines = _INFO.read_text(encoding="utf-8").splitlines() if _INFO.is_file() else ()
    pairs = (line.partition(":") for line in lines)
    return (value.strip() for key, _, value in pairs if key.strip() == name)
