"""Does `benchmark compare` find a planted slowdown and keep quiet without? `python -m benchmarks.compare_power RUN`.

With the defaults 20 tries of at most 70 seconds each; on a quiet machine most are decided at the first look, after 8.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segpipe import Segmenter
from stages.benchmark.duel import DuelResult, Terms, duel
from stages.config.file import load_config
from stages.data import open_split
from stages.measuring.rounds import in_words

_LINE = "{:>3}  {:<8} {:<17} {:>6}  {:<16} {:>6} {:>6} {:>7} {:>5}"


def main() -> None:
    """Print one line a try, and the counts; exit 1 when one of them was judged wrongly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tries", type=int, default=10)
    parser.add_argument("--slowdown", type=float, default=0.10)
    parser.add_argument("--margin", type=float, default=0.05)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    print(_LINE.format("try", "planted", "verdict", "ratio", "99 % interval", "A ms", "rounds", "seconds", "load"))
    slower = {options.slowdown: 0, 0.0: 0}
    for number in range(1, options.tries + 1):
        for share in slower:
            start = time.monotonic()
            outcome = one_try(options, share)
            slower[share] += outcome.verdict == "slower"
            print(line(number, share, outcome, time.monotonic() - start), flush=True)
    found, wrong = slower[options.slowdown], slower[0.0]
    print(f"the planted slowdown was found in {found} of {options.tries} tries, and none was seen where none was in "
          f"{options.tries - wrong} of {options.tries}")  # fmt: skip
    raise SystemExit(0 if found == options.tries and wrong == 0 else 1)


def one_try(options: argparse.Namespace, share: float) -> DuelResult:
    """The run against itself, opened twice, B slowed down by this share."""
    split = open_split(load_config(options.run), options.run, "val")
    frames = [split.sample(index)[0] for index in range(min(16, len(split)))]
    with (
        Segmenter.open(options.run, threads=options.threads) as a,
        Segmenter.open(options.run, threads=options.threads) as b,
    ):
        return duel(slowed(a, 0.0), slowed(b, share), frames, Terms(options.margin, options.seconds))


def slowed(segmenter: Segmenter, share: float) -> Callable[[NDArray[Any]], object]:
    """The same segmenter, each frame of which takes this share longer than it just took: whatever slows it down."""

    def call(frame: NDArray[Any]) -> None:
        start = time.perf_counter()
        segmenter(frame)
        end = start + (1 + share) * (time.perf_counter() - start)
        while time.perf_counter() < end:
            pass

    return call


def line(number: int, share: float, outcome: DuelResult, seconds: float) -> str:
    """One try as a line of the table."""
    interval = in_words(outcome.low, outcome.high, ".3f")
    return _LINE.format(
        number, f"{share:.0%}", outcome.verdict, f"{outcome.ratio:.3f}", interval, f"{outcome.a_ms:.2f}",
        outcome.rounds, f"{seconds:.1f}", f"{os.getloadavg()[0]:.1f}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
