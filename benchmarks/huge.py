"""A GeoTIFF of 20,000 x 20,000 pixels through `--geotiff`: its memory, its time, and its mask beside that of `tiled`.

    python -m benchmarks.huge runs/demo --side 20000
    python -m benchmarks.huge runs/demo --side 6000 --actors 2

The picture is striped and squared, so that every tile has borders. First it is segmented by windows, in this process,
whose peak is printed; then it is read whole and given to `Segmenter.tiled` (gigabytes more), and the masks are
compared. With `--actors` it is `segpipe batch`, in turns with one process on one core, and with so many on as many,
which share the image: each row has how many, seconds with the opening of all processes, the ratio of the last two, and
the load; the masks are compared with each other.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from segpipe import testing
from segpipe.predicting.job import Job
from segpipe.predicting.predict import predict_files
from segpipe.rundir.storage import sha256_of
from segpipe.runtime.segmenter import Segmenter
from tests.children import SEGPIPE

_LIMIT_MB = 3000
_BAND = 512
_ROUNDS = 3
_PLACE = rasterio.transform.Affine(0.1, 0, 500_000, 0, -0.1, 5_800_000)


def write_striped(path: Path, side: int) -> None:
    """In tiles, a band at a time."""
    profile = {"height": side, "width": side, "count": 3, "dtype": "uint8", "crs": "EPSG:32633", "transform": _PLACE}
    form = {"tiled": True, "blockxsize": _BAND, "blockysize": _BAND, "compress": "deflate", "bigtiff": "IF_SAFER"}
    with rasterio.open(path, "w", driver="GTiff", **profile, **form) as dataset:
        for top in range(0, side, _BAND):
            rows = min(_BAND, side - top)
            band = testing.make_frame(rows, side, top)[0]
            band[(np.arange(top, top + rows) // 37 % 5 == 0)] //= 2
            dataset.write(band.transpose(2, 0, 1), window=Window(0, top, side, rows))


def peak_mb() -> int:
    """The greatest resident size of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def compare_actors(run: Path, folder: Path, side: int, actors: int) -> int:
    """0 where all masks are equal."""
    (folder / "images").mkdir()
    write_striped(folder / "images/huge.tif", side)
    seconds, masks = dict[int, float](), set[str]()
    for turn in range(2 * _ROUNDS):
        count = (1, actors)[(turn + turn // 2) % 2]  # 1 2 2 1 1 2: neither always has the warm disk
        words = ["batch", run, folder / "images", "-o", folder / "out", "--geotiff", "--actors", count]
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:count]))
        began = time.monotonic()
        subprocess.run(
            ["taskset", "--cpu-list", cores, *SEGPIPE, *map(str, words)], check=True, stdout=subprocess.DEVNULL
        )
        seconds[count] = time.monotonic() - began
        (mask,) = (folder / "out").glob("*/masks/huge.tif")
        masks.add(sha256_of(mask))
        shutil.rmtree(folder / "out")
        ratio = f"{seconds[1] / seconds[actors]:.2f}" if turn % 2 else ""
        print(f"| {side} | {count} | {seconds[count]:.1f} | {ratio} | {os.getloadavg()[0]:.1f} |", flush=True)
    print(f"{len(masks)} different masks")
    return 3 * (len(masks) > 1)


def main() -> int:
    """0 where the masks are equal and the memory was enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--actors", type=int, default=0)
    options = parser.parse_args()
    if options.actors:
        with tempfile.TemporaryDirectory(prefix="segpipe-huge-") as folder:
            return compare_actors(options.run, Path(folder), options.side, options.actors)
    with tempfile.TemporaryDirectory(prefix="segpipe-huge-") as folder, Segmenter.open(options.run) as segmenter:
        image = Path(folder, "huge.tif")
        write_striped(image, options.side)
        before, began = peak_mb(), time.monotonic()
        done, broken = predict_files(segmenter, [image], Job(Path(folder, "out"), geotiff=True))
        if broken:
            sys.exit(str(broken[0]))
        seconds, peak = time.monotonic() - began, peak_mb()
        backend = segmenter.describe()["backend"]
        print(
            f"| {options.side} | {backend} | {seconds:.0f} | {before} | {peak} | {os.getloadavg()[0]:.1f} |", flush=True
        )
        with rasterio.open(image) as dataset:
            frame = np.ascontiguousarray(dataset.read().transpose(1, 2, 0))
        with rasterio.open(done[0].mask) as dataset:
            mask: NDArray[np.uint8] = dataset.read(1)
        differing = int((mask != segmenter.tiled(frame)).sum())
        print(f"{differing} of {mask.size} pixels differ from `tiled`")
    return 3 * (differing > 0 or peak > _LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
