"""What `segpipe serve` costs and holds: `python -m benchmarks.serving [overhead overload swap memory drain]`.

The tiny network of segpipe.testing, so that what is measured is the service. Writes benchmarks/results/serving.md.
"""

import asyncio
import http.client
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from segpipe import Segmenter, testing
from segpipe.cores import usable_cores
from segpipe.media.images import encode_png
from tests.serving import Served, picture, serving
from tests.test_serve_swap import OTHER, lead, sha256

RESULTS = Path(__file__).parent / "results/serving.md"
SIZES = ((160, 240), (1024, 2048))
QUEUE = 16


@dataclass
class Load:
    """What came back."""

    statuses: Counter[str] = field(default_factory=Counter)
    artifacts: Counter[str] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Of the 200s."""
        return sorted(self.milliseconds)[min(int(len(self.milliseconds) * share), len(self.milliseconds) - 1)]

    def shown(self) -> str:
        """Statuses with their numbers."""
        return ", ".join(f"{number} x {status}" for status, number in sorted(self.statuses.items()))


async def load(url: str, body: bytes, requests: int, callers: int, beside: Callable[[], Awaitable[None]]) -> Load:
    """So many requests by so many callers, each with its next one as soon as it has its answer."""
    found, left = Load(), requests
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(300), connector=connector) as session:

        async def caller() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                begun = time.perf_counter()
                try:
                    async with session.post(url, data=body, headers={"content-type": "image/png"}) as answer:
                        await answer.read()
                        found.statuses[str(answer.status)] += 1
                        found.artifacts[answer.headers.get("x-segpipe-artifact", "")[:12]] += 1
                        if answer.status == 200:
                            found.milliseconds.append(1000 * (time.perf_counter() - begun))
                        else:
                            await asyncio.sleep(0.01)
                except aiohttp.ClientError as error:
                    found.statuses[type(error).__name__] += 1

        await asyncio.gather(*(caller() for _ in range(callers)), beside())
    return found


async def nothing() -> None:
    """Beside a load."""


def ask(
    server: Served, body: bytes, requests: int, callers: int, beside: Callable[[], Awaitable[None]] = nothing
) -> Load:
    """A load on its own."""
    return asyncio.run(load(f"http://{server.host}:{server.port}/segment", body, requests, callers, beside))


def overhead(folder: Path) -> list[str]:
    """The same bytes in one process and over HTTP, in turns."""
    lines = ["| frame | in one process, ms | over HTTP, ms | more, ms |", "|---|---|---|---|"]
    run = testing.make_run(folder / "run")
    with (
        Segmenter.open(run) as segmenter,
        serving(run) as server,
        closing(http.client.HTTPConnection(server.host, server.port)) as connection,
    ):
        for height, width in SIZES:
            body = picture(height, width)
            alone, served, more = [], [], []
            for turn in range(-5, 60):
                begun = time.perf_counter()
                encode_png("mask", segmenter(body))
                between = time.perf_counter()
                connection.request("POST", "/segment", body, {"content-type": "image/png"})
                connection.getresponse().read()
                ended = time.perf_counter()
                if turn >= 0:
                    alone.append(1000 * (between - begun))
                    served.append(1000 * (ended - between))
                    more.append(served[-1] - alone[-1])
            median = [f"{statistics.median(values):.2f}" for values in (alone, served, more)]
            lines.append(f"| {height}x{width}, {len(body)} bytes | {' | '.join(median)} |")
    return lines


def overload(folder: Path) -> list[str]:
    """Capacity with as many callers as threads, then four times as many as there is room for."""
    body, cores = picture(480, 640), usable_cores()
    with serving(testing.make_run(folder / "run"), "--queue", QUEUE) as server:
        within = ask(server, body, 300, cores)
        beyond = ask(server, body, 2000, 4 * (cores + QUEUE))
    bound = (cores + QUEUE) / cores * statistics.mean(within.milliseconds)
    return [
        f"- {cores} callers: {within.shown()}; p50 {within.percentile(0.5):.1f} ms, "
        f"p99 {within.percentile(0.99):.1f} ms",
        f"- {4 * (cores + QUEUE)} callers: {beyond.shown()}; p50 of the 200s {beyond.percentile(0.5):.1f} ms, "
        f"p99 {beyond.percentile(0.99):.1f} ms; a full queue takes {bound:.1f} ms at the mean of the line above",
    ]


def swap(folder: Path) -> list[str]:
    """A reload in the middle, of a run that passed and of one that did not."""
    names = {"first": testing.CONTRACT, "second": OTHER, "failed": testing.CONTRACT}
    for name, contract in names.items():
        testing.make_run(folder / name, contract, status="failed" if name == "failed" else "passed")
    lead(folder, "first")
    lines = [f"- hashes: {', '.join(f'{name} {sha256(folder / name)[:12]}' for name in names)}"]
    with serving(folder / "current") as server:
        for name in ("second", "failed"):

            async def change(name: str = name) -> None:
                await asyncio.sleep(0.5)
                lead(folder, name)
                server.process.send_signal(signal.SIGHUP)

            found = ask(server, picture(), 700, 4, change)
            told = server.ask("GET", "/model").json["last_reload"]
            by = ", ".join(f"{number} by {artifact}" for artifact, number in found.artifacts.items())
            lines.append(f"- reload of {name} ({told['outcome']}): {found.shown()}; {by}")
    return lines


def memory(folder: Path) -> list[str]:
    """Resident memory after the first requests and after the last ones."""
    body = picture()
    with serving(testing.make_run(folder / "run")) as server:
        seen, statuses = [], Counter[str]()
        for _ in range(10):
            statuses += ask(server, body, 2000, 4).statuses
            seen.append(server.metrics()["process_resident_memory_bytes"] / 2**20)
    shown = ", ".join(f"{value:.1f}" for value in seen)
    grown = 100 * (seen[-1] / seen[0] - 1)
    return [f"- {dict(statuses)}; MiB after each 2000: {shown}; {grown:+.2f} % from the first to the last"]


def drain(folder: Path) -> list[str]:
    """SIGTERM under load: every request that was begun on a connection has its answer, later ones find no door."""
    with serving(testing.make_run(folder / "run"), "--queue", 64) as server:

        async def stop() -> None:
            await asyncio.sleep(1)
            server.process.send_signal(signal.SIGTERM)

        found = ask(server, picture(240, 320), 1500, 8, stop)
        server.process.wait()
    return [f"- {found.shown()}; exit code {server.process.returncode}"]


PARTS = {part.__name__: part for part in (overhead, overload, swap, memory, drain)}


def main(names: list[str]) -> None:
    """Those parts, or all."""
    text = ["# segpipe serve", "", f"`python -m benchmarks.serving {' '.join(names)}`".replace(" `", "`"), ""]
    for name in names or PARTS:
        before = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as folder:
            lines = PARTS[name](Path(folder))
        text += [
            f"## {name}",
            "",
            f"{PARTS[name].__doc__} {usable_cores()} cores, load average {before:.1f}.",
            "",
            *lines,
            "",
        ]
        print("\n".join(text[-len(lines) - 5 :]), flush=True)
    RESULTS.write_text("\n".join(text).rstrip() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
