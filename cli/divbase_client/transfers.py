"""What uploads and downloads share: progress, threads with an orderly end, and retries of one piece.

It moves no bytes itself and knows neither routes nor file formats.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, ParamSpec, TypeVar

from divbase_client.errors import ChecksumMismatch, TransferInterrupted
from divbase_client.models import Presigned
from divbase_client.retry import Retry
from divbase_client.store import PIECE, LinkRefused, Stopped, Store, StoreRefused, StoreUnavailable, WrongBytes

P = ParamSpec("P")
T = TypeVar("T")

IN_FLIGHT = 8  # requests to S3 at once: one connection reaches a tenth of what many reach together
SIDE_BY_SIDE = 4  # files at once


@dataclass(frozen=True)
class Moved:
    """Progress of one file: `done` of `total` bytes in its present stage. `done` falls when a piece is sent again."""

    key: str
    stage: Literal["hashing", "sending", "receiving"]
    done: int
    total: int


Progress = Callable[[Moved], None]


@dataclass(frozen=True)
class Failed:
    """One file of several that could not be transferred; the others went on."""

    key: str
    error: Exception


class Meter:
    """Adds up the bytes of one stage of one file from several threads and reports each change."""

    def __init__(
        self, key: str, stage: Literal["hashing", "sending", "receiving"], total: int, report: Progress | None
    ) -> None:
        self._key, self._stage, self._total, self._report = key, stage, total, report
        self._lock = threading.Lock()
        self.done = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.done += count
            if self._report:
                self._report(Moved(self._key, self._stage, self.done, self._total))


class Lanes:
    """Threads for pieces and for whole files, over one Store.

    Leaving the block on any error, Ctrl-C included, stops what is under way and waits until all threads have ended.
    """

    def __init__(self, store: Store, in_flight: int = IN_FLIGHT, side_by_side: int = SIDE_BY_SIDE) -> None:
        self.store = store
        self._pieces = ThreadPoolExecutor(in_flight, "divbase-piece")
        self._files = ThreadPoolExecutor(side_by_side, "divbase-file")

    def __enter__(self) -> Lanes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.store.stop()
        self._files.shutdown(wait=True, cancel_futures=True)
        self._pieces.shutdown(wait=True, cancel_futures=True)
        self.store.close()

    def piece(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._pieces.submit(work, *args, **kwargs)

    def file(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._files.submit(work, *args, **kwargs)


def settle(futures: list[Future[T]]) -> list[T]:
    """The results in order. On the first error the rest is cancelled, and awaited, before it is raised."""
    try:
        return [future.result() for future in futures]
    except BaseException:
        give_up(futures)
        raise


def give_up(futures: list[Future[T]]) -> None:
    """Cancel what has not begun and wait for what has: it still reads or writes the file."""
    for future in futures:
        future.cancel()
    wait(futures)


class Link:
    """A presigned request that is made anew when S3 refuses it. Threads share it, and renew it once between them."""

    def __init__(self, make: Callable[[], Presigned], first: Presigned | None = None) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._current = first

    def current(self) -> Presigned:
        with self._lock:
            if self._current is None:
                self._current = self._make()
            return self._current

    def renew(self, stale: Presigned) -> None:
        with self._lock:
            if self._current is stale:
                self._current = None


def persist(work: Callable[[Presigned], T], link: Link, store: Store, retry: Retry, what: str) -> T:
    """Do one piece of work with S3 until it succeeds or `retry` is used up.

    Raises TransferInterrupted when S3 stays away or refuses, ChecksumMismatch when the bytes are not the promised ones.
    """
    for attempt in range(1, retry.attempts + 1):
        request = link.current()
        retry_after = None
        try:
            return work(request)
        except (StoreUnavailable, LinkRefused) as error:
            if attempt == retry.attempts or (isinstance(error, LinkRefused) and attempt > 2):
                raise _interrupted(what, error) from error
            if isinstance(error, LinkRefused):
                link.renew(request)
                continue
            retry_after = error.retry_after
        except StoreRefused as error:
            raise _interrupted(what, error) from error
        except WrongBytes as error:
            if attempt > 2:  # twice may be the network; more often it is the file
                raise ChecksumMismatch(
                    f"{what}: S3 received other bytes than the file held when it was read ({error}).",
                    hint="Was the file changed meanwhile? Run the same again.",
                ) from error
        if store.stopped.wait(retry.pause(attempt, retry_after)):
            raise Stopped
    raise AssertionError("a Retry with no attempts")  # pragma: no cover


def _interrupted(what: str, error: Exception) -> TransferInterrupted:
    return TransferInterrupted(f"{what}: {error}.", hint="Run the same again; it goes on where it stopped.")


def read_pieces(path: Path, start: int, length: int, stopped: threading.Event) -> Iterator[memoryview]:
    """`length` bytes of a file from `start`, as slices of one buffer that the next slice overwrites.

    Raises ChecksumMismatch when the file has become shorter.
    """
    buffer = memoryview(bytearray(min(PIECE, max(length, 1))))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while length:
            count = file.readinto(buffer[: min(length, len(buffer))])
            if not count:
                raise ChecksumMismatch(f"{path} became shorter while it was read.", hint="Run the same again.")
            if stopped.is_set():
                raise Stopped
            length -= count
            yield buffer[:count]
