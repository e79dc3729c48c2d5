"""`segpipe batch` killed at random moments, and how long it takes to see that a hundred thousand images are done.

    python -m benchmarks.batch kills --kills 50
    python -m benchmarks.batch nodes --kills 50             # on a Ray cluster: benchmarks/batch_nodes.py
    python -m benchmarks.batch pair --run RUN --images 500  # beside `predict`: benchmarks/batch_pair.py
    python -m benchmarks.batch resume --images 100000
    python -m benchmarks.batch index --images 10000000      # the index alone: benchmarks/batch_index.py
    python -m benchmarks.batch memory --images 20000        # of a driver: there too

Each prints rows of a table; benchmarks/results/batch.md keeps what was measured.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

from benchmarks.batch_index import index, memory
from benchmarks.batch_nodes import node_kills
from benchmarks.batch_pair import pair
from segpipe import testing
from segpipe.batch.driver import Here, Request, predict_batch
from segpipe.batch.index import Files, Log, Row
from segpipe.batch.stores import LocalStore
from segpipe.batch.version import Version
from segpipe.media.images import encode_png, read_image, write_image
from segpipe.predicting.job import Advance, Job
from segpipe.runtime.segmenter import Segmenter

_IMAGES, _SIDE = 200, 512
_MEAN_S = 8.0  # between two kills; a driver needs some of it to start
_COMMAND = (sys.executable, "-c", "from segpipe.cli import main; main()")
_JOB = Job(Path(), overlay=False)


def kills(folder: Path, wanted: int) -> None:
    """Kill drivers and their processes until that happened so often; after each whole batch look at what lies there."""
    run, rng = testing.make_run(folder / "run"), random.Random(1)
    for n in range(_IMAGES):
        write_image(folder / f"in/{n % 7}/{n}.png", testing.make_frame(_SIDE, _SIDE, n)[0])
    count, faults, batches = Counter[str](), Counter[str](), 0
    while sum(count.values()) < wanted:
        batches += 1
        out = folder / f"out{batches}"
        while not _ended_by_itself(run, folder / "in", out, rng, count):
            pass
        faults.update(_faults(run, folder / "in", out))
        print(f"| {batches} | {count['driver']} | {count['process']} | {dict(faults)} |", flush=True)


def _ended_by_itself(run: Path, source: Path, out: Path, rng: random.Random, count: Counter[str]) -> bool:
    """One driver, whose processes are killed now and then, and it too one time in three."""
    command = [*_COMMAND, "batch", str(run), str(source), "-o", str(out), "--actors", "2", "--per-call", "4"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        while True:
            try:
                if (code := driver.wait(rng.expovariate(1 / _MEAN_S))) != 0:
                    raise SystemExit(f"the driver ended with {code}")
                return True
            except subprocess.TimeoutExpired:
                target = driver.pid if rng.random() < 1 / 3 else rng.choice(_workers(driver.pid) or [0])
            if target == driver.pid:
                driver.kill()
                count["driver"] += 1
                return False
            if target:
                os.kill(target, signal.SIGKILL)
                count["process"] += 1
                print(dict(count), file=sys.stderr, flush=True)


def _workers(parent: int) -> list[int]:
    """Processes that segment: children of the driver that multiprocessing started for it."""
    found = []
    for number in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        line = Path(f"/proc/{number}/cmdline")
        if line.exists() and b"spawn_main" in line.read_bytes():
            found.append(int(number))
    return found


def _faults(run: Path, source: Path, out: Path) -> Counter[str]:
    """Images without a mask, with two rows in one session, with another mask; files that nobody should see."""
    (version,) = (path for path in out.iterdir() if path.is_dir())
    rows = Files.of(LocalStore(version)).latest(["error"])
    found = Counter({"lost": 0, "twice": 0, "unequal": 0, "half": 0, "broken": sum(bool(e) for (e,) in rows.values())})
    with Segmenter.open(run) as segmenter:
        for image in source.rglob("*.png"):
            name = str(image.relative_to(source))
            mask = version / "masks" / name
            found["lost"] += name not in rows or not mask.exists()
            found["unequal"] += mask.exists() and bool((read_image(mask)[:, :, 0] != segmenter(image)).any())
    found["twice"] = len(rows) - _IMAGES if len(rows) > _IMAGES else 0
    found["half"] = sum(1 for path in (version / "masks").rglob("*") if path.is_file() and path.suffix != ".png")
    return found


def resume(folder: Path, images: int) -> None:
    """Of images that are done. One is made; the others are laid down as a run would have left them."""
    run, data = testing.make_run(folder / "run"), encode_png("image", testing.make_frame(16, 16)[0])
    (folder / "in").mkdir()
    (folder / "in/0000000.png").write_bytes(data)
    with Segmenter.open(run) as segmenter:
        asked = Request(str(folder / "in"), str(folder / "out"), _JOB, Version.of(segmenter, _JOB, ("mask",)))
        crew = Here(segmenter, _JOB, ("mask",))
        _lay_down(folder / "in", Path(predict_batch(crew, asked, _unseen).folder), data, images)
        began, cpu = time.monotonic(), time.process_time()
        state = predict_batch(crew, asked, _unseen)
        spent = time.monotonic() - began, time.process_time() - cpu
        print(f"| {state.skipped} | {state.done} | {spent[0]:.1f} | {spent[1]:.1f} | {os.getloadavg()[0]:.1f} |")


def _lay_down(source: Path, version: Path, data: bytes, images: int) -> None:
    """Masks are links to one: the disk is not what is measured."""
    mask, log = version / "masks/0000000.png", Log(LocalStore(version), "1of1", 2)
    for n in range(1, images):
        name = f"{n // 1000:04}/{n:07}.png"
        for path in (source / name, version / "masks" / name):
            path.parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
        (version / "masks" / name).hardlink_to(mask)
        status = (source / name).stat()
        log.add(Row(name, status.st_size, status.st_mtime_ns, mask_bytes=mask.stat().st_size, shares=[0.25] * 4))
    log.close()


def _unseen(total: int) -> nullcontext[Advance]:
    """No bar."""
    return nullcontext(lambda frames, /, *, skipped=False: None)


def main() -> None:
    """Do one of them in a folder that goes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("kills", "nodes", "pair", "resume", "index", "memory"))
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=1024, help="of the images of `pair`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="segpipe-batch-") as folder:
        if options.what == "kills":
            kills(Path(folder), options.kills)
        elif options.what == "nodes":
            node_kills(Path(folder), options.kills)
        elif options.what == "pair":
            raise SystemExit(0 if pair(Path(folder), options.run, options.images, options.side) else 3)
        else:
            {"resume": resume, "index": index, "memory": memory}[options.what](Path(folder), options.images)


if __name__ == "__main__":
    main()
