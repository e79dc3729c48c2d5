"""Does `benchmark compare` find a planted slowdown and keep quiet without? `python -m benchmarks.compare_power RUN`."""

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segpipe import Segmenter
from stages.benchmark.duel import Terms, duel
from stages.config_file import load_config
from stages.data import open_split


def main() -> None:
    """Print one line a try, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tries", type=int, default=10)
    parser.add_argument("--slowdown", type=float, default=0.10)
    parser.add_argument("--margin", type=float, default=0.05)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    split = open_split(load_config(options.run), options.run, "val")
    frames = [split.sample(index)[0] for index in range(min(16, len(split)))]
    counts: dict[str, Counter[str]] = {"planted": Counter(), "null": Counter()}
    terms = Terms(options.margin, options.seconds)
    for _ in range(options.tries):
        for kind, share in (("planted", options.slowdown), ("null", 0.0)):
            with (
                Segmenter.open(options.run, threads=options.threads) as a,
                Segmenter.open(options.run, threads=options.threads) as b,
            ):
                added = share * frame_seconds(a, frames)
                outcome = duel(slowed(a, 0.0), slowed(b, added), frames, terms)
            counts[kind][outcome.verdict] += 1
            print(kind, json.dumps(outcome.as_dict() | {"load": round(os.getloadavg()[0], 1)}), flush=True)
    print(json.dumps(counts))


def slowed(segmenter: Segmenter, seconds: float) -> Any:
    """The same segmenter with this much work added a frame, in processor time: a busy machine stretches it too."""

    def call(frame: NDArray[Any]) -> None:
        segmenter(frame)
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    return call


def frame_seconds(segmenter: Segmenter, frames: Sequence[NDArray[Any]]) -> float:
    """What a frame takes where nothing disturbs it: the fastest of many."""
    best = float("inf")
    for number in range(60):
        start = time.perf_counter()
        segmenter(frames[number % len(frames)])
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
