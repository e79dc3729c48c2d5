"""What pruning costs and what a teacher brings, over several seeds: training short enough for two cores.

    python -m benchmarks.compress TEACHER OUT [--seeds 1 2 3] [--threads 1]

TEACHER is a trained run of the demo (`segpipe demo`). Each seed trains the demo's network for a few epochs, alone and
with the teacher; the first of these is then cut to half of its multiplications, and taught by what it was cut from,
beside its control. Prints Markdown; exit code 3 where a target is missed.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from segpipe.rundir.directory import TOML_NAME, RunDirectory
from stages.config.file import load_config
from stages.config.starter import write_starter
from stages.pipeline import Selection, run_stages
from stages.results.figures import TrainFigures, require

FRAMES, EPOCHS, FURTHER, MACS = 200, 6, 4, 0.5
LEAST_BROUGHT, MOST_LOST = 1.0, 2.0
"""Points of mIoU: by a teacher, and by half of the multiplications."""
WAYS = {"plain": (), "cwd": ("compress.distil.kind=cwd",), "kl": ("compress.distil.kind=kl",)}


def main() -> int:
    """Train what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kl", action="store_true", help="also teach by pixel")
    given = parser.parse_args()
    found: dict[str, list[float]] = {}
    for seed in given.seeds:
        for way, how in WAYS.items() if given.kl else [*WAYS.items()][:2]:
            teacher = (f"compress.distil.teacher={given.teacher.resolve()}",) if how else ()
            figures = train(given.out / f"{way}-{seed}", (*how, *teacher), seed, given.threads)
            found.setdefault(way, []).append(miou(figures.test_miou))
        cut = (f"compress.prune={{ macs = {MACS}, epochs = {FURTHER}, taught = true }}",)
        pruned = train(given.out / f"plain-{seed}", cut, seed, given.threads)
        assert pruned.pruned is not None
        found.setdefault("pruned", []).append(miou(pruned.test_miou))
        found.setdefault("control", []).append(miou(pruned.pruned.control_test_miou))
        found.setdefault("macs", []).append(100 * pruned.pruned.share)
        print(f"seed {seed}: { ({name: round(values[-1], 2) for name, values in found.items()}) }", flush=True)
    print(table(found, require(TrainFigures, RunDirectory(given.teacher)).test_miou))
    return 0 if all(held(found)) else 3


def held(found: Mapping[str, list[float]]) -> Iterator[bool]:
    """The targets, on the mean over the seeds and, of what pruning may cost, on each seed."""
    yield statistics.mean(found["cwd"]) - statistics.mean(found["plain"]) >= LEAST_BROUGHT
    yield max(control - cut for control, cut in zip(found["control"], found["pruned"], strict=True)) <= MOST_LOST


def train(path: Path, settings: tuple[str, ...], seed: int, threads: int) -> TrainFigures:
    """The figures of a training; one that a run has already is taken as it is."""
    if not (path / TOML_NAME).exists():
        write_starter(path, "demo")
    sizes = (
        f"data.train={FRAMES}",
        "data.val=20",
        f"train.epochs={EPOCHS}",
        f"train.seed={seed}",
        f"train.threads={threads}",
    )
    config = load_config(path, (*sizes, "train.workers=0", "train.tensorboard=false", *settings))
    return require(TrainFigures, run_stages(path, config, path, Selection(last="train")))


def miou(value: float | None) -> float:
    """In per cent."""
    assert value is not None
    return 100 * value


def table(found: Mapping[str, list[float]], teacher: float | None) -> str:
    """A row a way, and beside it what it is compared with."""
    rows = [
        "| | test mIoU by seed | mean | against |",
        "|---|---|---|---|",
        row("alone", found["plain"], None, ""),
        row("with a teacher, `cwd`", found["cwd"], found["plain"], "alone"),
        *([row("with a teacher, `kl`", found["kl"], found["plain"], "alone")] if "kl" in found else []),
        row("trained on, unpruned", found["control"], None, ""),
        row(f"pruned to {statistics.mean(found['macs']):.1f} % of the MACs", found["pruned"], found["control"], "it"),
    ]
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    return "\n".join([*rows, "", f"Teacher: test mIoU {miou(teacher):.2f}. Load of the machine at the end: {load}."])


def row(name: str, values: list[float], beside: list[float] | None, whom: str) -> str:
    """Differences seed by seed: two trainings of one seed see the same crops."""
    shown = ", ".join(f"{value:.2f}" for value in values)
    if beside is None:
        return f"| {name} | {shown} | {statistics.mean(values):.2f} | |"
    gains = [value - other for value, other in zip(values, beside, strict=True)]
    told = f"{statistics.mean(gains):+.2f} ({min(gains):+.2f} to {max(gains):+.2f}) of {whom}"
    return f"| {name} | {shown} | {statistics.mean(values):.2f} | {told} |"


if __name__ == "__main__":
    sys.exit(main())
