"""Many requests to a server, and what came back."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp

from tests.serving import Served


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


async def nothing() -> None:
    """Beside a load."""


def ask(
    server: Served, body: bytes, requests: int, callers: int, beside: Callable[[], Awaitable[None]] = nothing
) -> Load:
    """So many requests by so many callers, each with its next one as soon as it has its answer."""
    return asyncio.run(_load(f"http://{server.host}:{server.port}/segment", body, requests, callers, beside))


async def _load(url: str, body: bytes, requests: int, callers: int, beside: Callable[[], Awaitable[None]]) -> Load:
    found, left = Load(), requests
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(300), connector=connector) as session:

        async def caller() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await _one(session, url, body, found)

        await asyncio.gather(*(caller() for _ in range(callers)), beside())
    return found


async def _one(session: aiohttp.ClientSession, url: str, body: bytes, found: Load) -> None:
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
