"""How much memory this process has and may still take: asked before a second model is opened beside the first."""

from pathlib import Path

from segpipe.errors import BackendError

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def used_bytes() -> int:
    """This process's resident memory."""
    return _kilobytes(_PROC / "self/status", "VmRSS") or 0


def free_bytes() -> int | None:
    """What the machine and this process's container still have; None where neither says."""
    found = [room for room in (_kilobytes(_PROC / "meminfo", "MemAvailable"), *map(_left, _LIMITS)) if room is not None]
    return min(found, default=None)


def require_room(size_bytes: int) -> None:
    """Refuse to open what does not fit beside what is open."""
    free = free_bytes()
    if free is not None and free < size_bytes:
        raise BackendError(
            f"a second model takes about {size_bytes >> 20} MiB, and {free >> 20} MiB are free",
            hint="give the process room for two models, or restart it with the new one",
        )


def _kilobytes(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _left(names: tuple[str, str]) -> int | None:
    """Of a container's limit; None where there is none."""
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in names)
    except OSError:
        return None
    return max(0, int(limit) - int(used)) if limit.isdigit() else None
