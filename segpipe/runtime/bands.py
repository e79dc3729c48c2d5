"""Work on a frame, cut into bands that several cores do at a time."""

from collections.abc import Callable

from segpipe.runtime.streaming import ordered


def over_cores(work: Callable[[int], None], bands: int, cores: int) -> None:
    """`work(0)` to `work(bands - 1)`, in neighbouring runs of them on as many threads; returns when all are done."""
    workers = max(min(cores, bands), 1)
    edges = [bands * worker // workers for worker in range(workers + 1)]

    def run(worker: int) -> None:
        for band in range(edges[worker], edges[worker + 1]):
            work(band)

    if workers == 1:
        return run(0)
    for _ in ordered(run, range(workers), workers):
        pass
    return None
