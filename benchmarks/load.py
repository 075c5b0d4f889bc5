"""The load generator, a process of its own: `python -m benchmarks.load` reads what to ask from standard input, asks,
and prints how long each answer took. Plain asyncio streams, because an HTTP client would be what is measured.

It knows HTTP/1.1 with Content-Length and nothing of DivBase.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Request:
    """`path` with its query. `body` None: no body. `fresh_key`: send an Idempotency-Key that was never sent before."""

    method: str
    path: str
    body: str | None = None
    fresh_key: bool = False


@dataclass(frozen=True)
class Asking:
    """What to ask, picked at random from `requests`, for `seconds`.

    Attributes:
        clients: closed loop: so many ask, each again as soon as it is answered.
        rate: open loop, when above 0: so many requests a second leave on time, whatever the answers do; a latency then
            counts from the moment at which the request was due.
    """

    url: str
    key: str
    requests: tuple[Request, ...]
    seconds: float
    clients: int = 1
    rate: float = 0.0


@dataclass(frozen=True)
class Heard:
    """Latencies in seconds; answers that were not 2xx; the generator's own share of one core, 0 to 1."""

    latencies: list[float]
    failures: int
    seconds: float
    cpu_share: float


def ask(asking: Asking) -> Heard:
    """Run the generator in a process of its own and hear what it measured. Raises RuntimeError when it breaks."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=json.dumps(asdict(asking)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the load generator broke: {done.stderr[-2000:]}")
    return Heard(**json.loads(done.stdout))


# --- the process -------------------------------------------------------------------------------------------------


def main() -> None:
    told = json.load(sys.stdin)
    asking = Asking(**{**told, "requests": tuple(Request(**each) for each in told["requests"])})
    json.dump(asdict(asyncio.run(_run(asking))), sys.stdout)


class Connection:
    """One keep-alive connection, opened with the first request."""

    def __init__(self, url: str):
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, message: bytes) -> int:
        """The status of the answer, after its last byte."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, limit=1 << 22)
        reader, writer = self._streams
        writer.write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        at = lower.index(b"content-length:") + 15
        await reader.readexactly(int(lower[at : lower.index(b"\r\n", at)]))
        return int(head[9:12])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


class Tally:
    """Collects outcomes, from the end of the warm-up on."""

    def __init__(self, counts_from: float):
        self.counts_from = counts_from
        self.latencies: list[float] = []
        self.failures = 0

    def note(self, begun: float, status: int) -> None:
        if begun >= self.counts_from:
            self.latencies.append(time.perf_counter() - begun)
            self.failures += not 200 <= status < 300


async def _run(asking: Asking) -> Heard:
    chance = random.Random(7)
    numbers = iter(range(1 << 62))
    salt = f"{time.time_ns():x}"

    def message() -> bytes:
        return _message(chance.choice(asking.requests), asking.key, f"{salt}-{next(numbers)}")

    warm_up = min(1.0, asking.seconds / 4)
    start = time.perf_counter()
    tally = Tally(start + warm_up)
    end = start + warm_up + asking.seconds
    cpu = time.process_time()
    await (_open_loop if asking.rate else _closed_loop)(asking, message, tally, end)
    took = time.perf_counter() - start
    return Heard(tally.latencies, tally.failures, asking.seconds, (time.process_time() - cpu) / took)


async def _closed_loop(asking: Asking, message: Callable[[], bytes], tally: Tally, end: float) -> None:
    async def client() -> None:
        connection = Connection(asking.url)
        while (begun := time.perf_counter()) < end:
            tally.note(begun, await connection.exchange(message()))
        connection.close()

    await asyncio.gather(*(client() for _ in range(asking.clients)))


async def _open_loop(asking: Asking, message: Callable[[], bytes], tally: Tally, end: float) -> None:
    idle: list[Connection] = []

    async def one(due: float) -> None:
        connection = idle.pop() if idle else Connection(asking.url)
        tally.note(due, await connection.exchange(message()))
        idle.append(connection)

    due, running = time.perf_counter(), []
    while due < end:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        running.append(asyncio.ensure_future(one(due)))
        due += 1 / asking.rate
    await asyncio.gather(*running)
    for connection in idle:
        connection.close()


def _message(request: Request, key: str, number: str) -> bytes:
    lines = [f"{request.method} {request.path} HTTP/1.1", "Host: gateway", f"Authorization: Bearer {key}"]
    body = b"" if request.body is None else request.body.encode()
    if request.body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if request.fresh_key:
        lines.append(f"Idempotency-Key: {number}")
    return "\r\n".join([*lines, "", ""]).encode() + body


if __name__ == "__main__":
    main()
