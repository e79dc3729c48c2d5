"""The parts: each starts a server of its own, measures, and says what should be."""

import asyncio
import http.client
import math
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import permutations
from pathlib import Path

from benchmarks.serving.client import Connection
from benchmarks.serving.load import ask
from benchmarks.serving.openapi import openapi
from benchmarks.serving.page import Outcome
from segpipe import Segmenter, testing
from segpipe.cores import usable_cores
from segpipe.media.images import encode_png
from tests import half_rows
from tests.children import wait_until
from tests.serving import Served, picture, serving
from tests.test_serve_swap import OTHER, lead, sha256

SIZES = ((160, 240), (1024, 2048))
MOST_MS = 3.0  # that HTTP may take beyond reader, network and PNG writer in one process
WARM, TURNS = 12, 150
QUEUE = 16
SPREAD = 1.5  # of the slowest answers over the mean of a full queue
MOST_GROWTH = 2.0  # percent
REQUESTS = 20_000
FRAMES = 25  # that a shadow compares
REFUSED_DOOR = "ClientConnectorError"


def overhead(folder: Path) -> Outcome:
    """The same bytes in one process and over HTTP by two clients, in turns that change their order; medians, and the
    95 % interval of the median of the turns' differences. Python's http.client takes time of its own."""
    lines = [
        "| frame | in one process, ms | over HTTP, ms | more, ms | by http.client, more, ms | around the stages, ms |",
        "|---|---|---|---|---|---|",
    ]
    targets = {}
    run = testing.make_run(folder / "run")
    with Segmenter.open(run) as segmenter, serving(run) as server, closing(Connection(server)) as connection:
        library = closing(http.client.HTTPConnection(server.host, server.port))
        with library as usual:
            for height, width in SIZES:
                body = picture(height, width)
                turns = [_turn(segmenter, connection, usual, body, number) for number in range(WARM + TURNS)][WARM:]
                own, served, by_library, around = ([turn[place] for turn in turns] for place in range(4))
                more = _differences(served, own)
                cells = [f"{statistics.median(values):.2f}" for values in (own, served)]
                cells += [_shown(more), _shown(_differences(by_library, own)), _shown(around)]
                lines.append(f"| {height}x{width}, {len(body)} bytes | {' | '.join(cells)} |")
                targets[f"{height}x{width} takes at most {MOST_MS:g} ms more"] = statistics.median(more) <= MOST_MS
    return Outcome(lines, targets)


def _differences(values: list[float], others: list[float]) -> list[float]:
    return [value - other for value, other in zip(values, others, strict=True)]


def _shown(values: list[float]) -> str:
    """The median with its 95 % interval, by the values' order alone."""
    ordered, half = sorted(values), 0.98 * math.sqrt(len(values))
    low, high = ordered[math.floor(len(values) / 2 - half)], ordered[math.ceil(len(values) / 2 + half) - 1]
    return f"{statistics.median(values):.2f} ({low:.2f} to {high:.2f})"


def _turn(
    segmenter: Segmenter, connection: Connection, usual: http.client.HTTPConnection, body: bytes, number: int
) -> tuple[float, float, float, float]:
    """Milliseconds in this process, over HTTP, by http.client, and those of the second outside the server's stages."""
    stages_ms = 0.0

    def own() -> None:
        encode_png("mask", segmenter(body))

    def served() -> None:
        nonlocal stages_ms
        told = (part.partition(";dur=") for part in connection.segment(body)["server-timing"].split(", "))
        stages_ms = sum(float(ms) for name, _, ms in told if name != "wait")

    def by_library() -> None:
        usual.request("POST", "/segment", body, {"content-type": "image/png"})
        usual.getresponse().read()

    orders = [*permutations((own, served, by_library))]
    taken = {way: _milliseconds(way) for way in orders[number % len(orders)]}
    return taken[own], taken[served], taken[by_library], taken[served] - stages_ms


def _milliseconds(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begun)


def overload(folder: Path) -> Outcome:
    """Capacity with as many callers as threads, then four times as many as there is room for."""
    body, cores = picture(480, 640), usable_cores()
    callers = 4 * (cores + QUEUE)
    with serving(testing.make_run(folder / "run"), "--queue", QUEUE) as server:
        within = ask(server, body, 300, cores)
        before = _stage_ms(server)
        beyond = ask(server, body, 2000, callers)
        after = _stage_ms(server)
    mean = (after[0] - before[0]) / (after[1] - before[1])
    bound, slowest = (cores + QUEUE) / cores * mean, beyond.percentile(0.99)
    lines = [
        f"- {cores} callers: {within.shown()}; p50 {within.percentile(0.5):.1f} ms, "
        f"p99 {within.percentile(0.99):.1f} ms",
        f"- {callers} callers: {beyond.shown()}; p50 of the 200s {beyond.percentile(0.5):.1f} ms, "
        f"p99 {slowest:.1f} ms; a full queue takes {bound:.1f} ms at the {mean:.1f} ms that a picture took then",
    ]
    return Outcome(
        lines,
        {
            "only 200 and 429": {*beyond.statuses} == {"200", "429"} and {*within.statuses} == {"200"},
            f"p99 of the 200s within {SPREAD:g} full queues": slowest <= SPREAD * bound,
        },
    )


def _stage_ms(server: Served) -> tuple[float, float]:
    """Milliseconds of all stages but the wait, and the number of pictures."""
    told = server.metrics()

    def total(kind: str, *stages: str) -> float:
        start = f"segpipe_stage_milliseconds_{kind}"
        return sum(
            value
            for name, value in told.items()
            if name.startswith(start) and any(f'stage="{stage}"' in name for stage in stages)
        )

    return total("sum", "decode", "segment", "encode"), total("count", "segment")


def swap(folder: Path) -> Outcome:
    """A reload in the middle, of a run that passed and of one that did not."""
    names = {"first": testing.CONTRACT, "second": OTHER, "failed": testing.CONTRACT}
    for name, contract in names.items():
        testing.make_run(folder / name, contract, status="failed" if name == "failed" else "passed")
    lead(folder, "first")
    lines = [f"- hashes: {', '.join(f'{name} {sha256(folder / name)[:12]}' for name in names)}"]
    targets = {}
    with serving(folder / "current") as server:
        for name, outcome, artifacts in (("second", "accepted", 2), ("failed", "refused", 1)):

            async def change(name: str = name) -> None:
                await asyncio.sleep(0.5)
                lead(folder, name)
                server.process.send_signal(signal.SIGHUP)

            found = ask(server, picture(), 700, 4, change)
            told = server.ask("GET", "/model").json["last_reload"]
            by = ", ".join(f"{number} by {artifact}" for artifact, number in found.artifacts.items())
            lines.append(f"- reload of {name} ({told['outcome']}): {found.shown()}; {by}")
            targets[f"700 of 700 over a reload that is {outcome}"] = (
                found.statuses == Counter({"200": 700})
                and told["outcome"] == outcome
                and len(found.artifacts) == artifacts
            )
    return Outcome(lines, targets)


def memory(folder: Path) -> Outcome:
    """Resident memory after the first requests and after the last ones."""
    body, rounds = picture(), 10
    with serving(testing.make_run(folder / "run")) as server:
        seen, statuses = [], Counter[str]()
        for _ in range(rounds):
            statuses += ask(server, body, REQUESTS // rounds, 4).statuses
            seen.append(server.metrics()["process_resident_memory_bytes"] / 2**20)
    grown = 100 * (seen[-1] / seen[0] - 1)
    shown = ", ".join(f"{value:.1f}" for value in seen)
    line = (
        f"- {dict(statuses)}; MiB after each {REQUESTS // rounds}: {shown}; {grown:+.2f} % from the first to the last"
    )
    return Outcome(
        [line],
        {
            f"{REQUESTS} of {REQUESTS} answered": statuses == Counter({"200": REQUESTS}),
            f"memory flat within {MOST_GROWTH:g} %": grown <= MOST_GROWTH,
        },
    )


def drain(folder: Path) -> Outcome:
    """SIGTERM under load: every request that was begun on a connection has its answer, later ones find no door."""
    with serving(testing.make_run(folder / "run"), "--queue", 64) as server:

        async def stop() -> None:
            await asyncio.sleep(1)
            server.process.send_signal(signal.SIGTERM)

        found = ask(server, picture(240, 320), 1500, 8, stop)
        server.process.wait()
    code = server.process.returncode
    return Outcome(
        [f"- {found.shown()}; exit code {code}"],
        {
            "none lost that was accepted": {*found.statuses} == {"200", REFUSED_DOOR},
            "exit code 0": code == 0,
        },
    )


def shadow(folder: Path) -> Outcome:
    """Two artifacts with passed verdicts, one planted (weights of a class negated), every picture shadowed."""
    lines = [
        "| artifact | frames compared | pixels that differ | of | beyond a frame's limit | drift |",
        "|---|---|---|---|---|---|",
    ]
    drift, said = {}, {}
    for name, scale in (("planted", -1.0), ("honest", 1.0)):
        run = half_rows.make_run(folder / name, scale)
        options = ("--backend", half_rows.ROW.name, "--shadow", "1")
        with serving(run, *options, before=f"from {half_rows.__name__} import add_row\nadd_row()") as server:
            for number in range(FRAMES):
                server.segment(picture(160, 240, number))
                wait_until(partial(_has_compared, server, number + 1))
            seen = [
                _shadow(server, of) for of in ("frames_total", "flips_total", "pixels_total", "beyond_total", "drift")
            ]
            said[name] = [line for line in server.end()[1].splitlines() if "drift" in line]
        lines.append(f"| {name} | {' | '.join(f'{number:g}' for number in seen)} |")
        drift[name] = seen[-1]
    lines += ["", f"The planted one's log: `{said['planted'][0]}`"] if said["planted"] else []
    return Outcome(
        lines,
        {
            "the planted one is seen, in metrics and log": drift["planted"] == 1 and bool(said["planted"]),
            "the honest one is not": drift["honest"] == 0 and not said["honest"],
        },
    )


def _has_compared(server: Served, frames: int) -> bool:
    return _shadow(server, "frames_total") == frames


def _shadow(server: Served, name: str) -> float:
    return next(value for told, value in server.metrics().items() if told.startswith(f"segpipe_shadow_{name}"))


def batches(_: Path) -> Outcome:
    """Processor time of a frame on one core, by the number of frames in a call; in brackets how many times as fast."""
    from benchmarks.serving.batches import measured  # torch loads here

    return measured()


PARTS = {part.__name__: part for part in (overhead, overload, swap, memory, drain, shadow, openapi, batches)}
