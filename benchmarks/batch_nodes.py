"""`segpipe batch --address` while actors, nodes and drivers are killed at random moments, on a cluster on this machine.

    python -m benchmarks.batch nodes --kills 50

Each batch prints a row for benchmarks/results/batch.md.
"""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from segpipe import testing
from segpipe.batch.index import Files
from segpipe.batch.stores import LocalStore
from segpipe.media.images import write_image
from tests.children import SEGPIPE
from tests.ray_nodes import Cluster, cluster

_IMAGES, _SIDE = 300, 1024
_LONGEST_S = 20.0  # from the driver's start, or the last kill, to the next one: a driver begins to segment after some
_KINDS = ("actor", "actor", "node", "frozen node", "driver")


@dataclass
class _Story:
    """What is killed, and how often it was."""

    cluster: Cluster
    rng: random.Random
    count: Counter[str] = field(default_factory=Counter)

    def kill(self, driver: "subprocess.Popen[bytes]") -> bool:
        """One of them; whether it was the driver. A node that goes is replaced, as an operator would."""
        kind = self.rng.choice(_KINDS)
        if kind == "driver":
            driver.kill()
        elif kind == "actor":
            if not (actors := self.cluster.processes(b"ray::Actor")):
                return False
            os.kill(self.rng.choice(actors), signal.SIGKILL)
        else:
            node = self.cluster.nodes[-1]
            if kind == "frozen node":
                self.cluster.freeze(node)
            else:
                self.cluster.remove(node)
            self.cluster.add()
        self.count[kind] += 1
        return kind == "driver"


def node_kills(folder: Path, wanted: int) -> None:
    """Until so many were killed; after each whole batch every mask is compared with one process's."""
    run = testing.make_run(folder / "run")
    for n in range(_IMAGES):
        write_image(folder / f"in/{n % 7}/{n}.png", testing.make_frame(_SIDE, _SIDE, n)[0])
    _batch(run, folder, "alone", []).wait()
    with cluster() as made:
        made.add()
        story, batches, faults = _Story(made, random.Random(1)), 0, Counter[str]()
        while story.count.total() < wanted:
            batches += 1
            while not _ended_by_itself(run, folder, f"out{batches}", story):
                pass
            faults.update(_faults(folder, f"out{batches}"))
            counts = " | ".join(str(story.count[kind]) for kind in dict.fromkeys(_KINDS))
            print(f"| {batches} | {counts} | {dict(faults)} |", flush=True)


def _ended_by_itself(run: Path, folder: Path, out: str, story: _Story) -> bool:
    """One driver, and what happens meanwhile. What froze wakes afterwards, and works on at what nobody waits for."""
    driver = _batch(run, folder, out, ["--actors", "2", "--per-call", "4", "--address", story.cluster.address])
    with driver:
        while True:
            try:
                code = driver.wait(story.rng.uniform(0, _LONGEST_S))
            except subprocess.TimeoutExpired:
                if story.kill(driver):
                    return False
                print(dict(story.count), file=sys.stderr, flush=True)
                continue
            if code:
                raise SystemExit(f"the driver ended with {code}")
            story.cluster.thaw()
            return True


def _batch(run: Path, folder: Path, out: str, more: list[str]) -> "subprocess.Popen[bytes]":
    words = ["batch", str(run), str(folder / "in"), "-o", str(folder / out), *more]
    return subprocess.Popen([*SEGPIPE, *words], stdout=subprocess.DEVNULL, stderr=(folder / f"{out}.log").open("ab"))


def _faults(folder: Path, out: str) -> Counter[str]:
    """Images without a mask or a row, with two rows in one file, with another mask; files that nobody should see."""
    alone, version = (next(path for path in (folder / name).iterdir() if path.is_dir()) for name in ("alone", out))
    rows = Files.of(LocalStore(version))
    names = [name for table in rows.tables(["path"]) for name in {*table.column("path").to_pylist()}]
    found = Counter({"lost": 0, "twice": 0, "unequal": 0, "half": 0, "broken": 0})
    for table in rows.tables(["path"]):
        found["twice"] += table.num_rows - len({*table.column("path").to_pylist()})
    found["broken"] = sum(bool(error) for (error,) in rows.latest(["error"]).values())
    for image in (folder / "in").rglob("*.png"):
        name = str(image.relative_to(folder / "in"))
        mask = version / "masks" / name
        found["lost"] += name not in names or not mask.exists()
        found["unequal"] += mask.exists() and mask.read_bytes() != (alone / "masks" / name).read_bytes()
    found["half"] = sum(1 for path in (version / "masks").rglob("*") if path.is_file() and path.suffix != ".png")
    return found
