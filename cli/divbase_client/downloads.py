"""Files of a project onto this machine: parallel ranges, a journal to resume from, the checksum, then one rename.

It knows the download route and the Store; where a file goes is said by the caller.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from divbase_client.errors import ChecksumMismatch, ClientError, TargetExists
from divbase_client.models import Download, Presigned
from divbase_client.retry import Retry
from divbase_client.store import PIECE, Store
from divbase_client.transfers import Failed, Lanes, Link, Meter, Progress, give_up, persist, read_pieces

RANGE = 16 << 20  # bytes of one request: long enough that its start does not count, short enough to lose little
Lookup = Callable[[], Download]


@dataclass(frozen=True)
class Wanted:
    """`look_up` answers with the same pinned version each time, and a fresh URL. `key` is for messages."""

    key: str
    look_up: Lookup
    target: Path
    force: bool = False


@dataclass(frozen=True)
class Downloaded:
    """`received`: bytes that came from S3 this time; 0 and `unchanged` when the target had this content already.

    `verified` is False where the project has no checksum of the file, so that only its length could be compared.
    """

    key: str
    path: Path
    version_id: str
    size: int
    received: int
    unchanged: bool
    verified: bool


class Downloader:
    """`progress` is called from several threads, one call at a time for each file."""

    def __init__(self, lanes: Lanes, retry: Retry, progress: Progress | None = None, range_size: int = RANGE) -> None:
        self._lanes = lanes
        self._retry = retry
        self._progress = progress
        self._range_size = range_size

    def download_all(self, wanted: Iterable[Wanted]) -> Iterator[Downloaded | Failed]:
        """Several files side by side; one that fails does not stop the others."""
        futures = [(one, self._lanes.file(self.download, one)) for one in wanted]
        for one, future in futures:
            try:
                yield future.result()
            except (ClientError, OSError) as error:
                yield Failed(one.key, error)

    def download(self, wanted: Wanted) -> Downloaded:
        """One file. Raises TargetExists, TransferInterrupted, or ChecksumMismatch (and then keeps nothing)."""
        answer = wanted.look_up()
        if wanted.target.exists() or wanted.target.is_symlink():
            if self._has_content(wanted.target, answer):
                return _outcome(answer, wanted.target, 0, unchanged=True)
            if not wanted.force:
                raise TargetExists(
                    f"{wanted.target} exists and has other content.", hint="Use --force to replace it, or --to DIR."
                )
        wanted.target.parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(wanted.target, answer, self._range_size)
        received = self._receive(wanted, answer, journal)
        os.replace(journal.part, wanted.target)
        journal.remove()
        return _outcome(answer, wanted.target, received, unchanged=False)

    def _has_content(self, target: Path, answer: Download) -> bool:
        if not target.is_file() or target.stat().st_size != answer.size or answer.sha256 is None:
            return False
        digest = hashlib.sha256()
        meter = Meter(answer.key, "hashing", answer.size, self._progress)
        for piece in read_pieces(target, 0, answer.size, self._lanes.store.stopped):
            digest.update(piece)
            meter.add(len(piece))
        return digest.hexdigest() == answer.sha256

    def _receive(self, wanted: Wanted, answer: Download, journal: Journal) -> int:
        """Fetch what the journal lacks, and hash from the start, behind the fetching; return the bytes received."""
        meter = Meter(answer.key, "receiving", answer.size, self._progress)
        link = Link(lambda: _same_version(wanted.look_up(), answer).request, answer.request)
        spans = [
            (start, min(start + self._range_size, answer.size)) for start in range(0, answer.size, self._range_size)
        ]
        had = journal.open()
        futures: list[Future[None]] = []
        try:
            for number, (start, end) in enumerate(spans):
                if number in had:
                    meter.add(end - start)
                else:
                    futures.append(self._lanes.piece(self._fetch, journal, number, start, end, link, meter))
            digest = self._hash(journal, spans, had, futures)
        finally:
            journal.close()
        if answer.sha256 is not None and digest != answer.sha256:
            journal.part.unlink()
            journal.remove()
            raise ChecksumMismatch(
                f"{answer.key}: the bytes received have SHA-256 {digest}, not {answer.sha256}.",
                hint="Nothing was kept; run the same again.",
            )
        return sum(end - start for number, (start, end) in enumerate(spans) if number not in had)

    def _hash(
        self, journal: Journal, spans: list[tuple[int, int]], had: frozenset[int], futures: list[Future[None]]
    ) -> str:
        digest = hashlib.sha256()
        coming = iter(futures)
        try:
            for number, (start, end) in enumerate(spans):
                if number not in had:
                    next(coming).result()
                for piece in read_pieces(journal.part, start, end - start, self._lanes.store.stopped):
                    digest.update(piece)
        except BaseException:
            give_up(futures)
            raise
        return digest.hexdigest()

    def _fetch(self, journal: Journal, number: int, start: int, end: int, link: Link, meter: Meter) -> None:
        store = self._lanes.store
        buffer = memoryview(bytearray(min(PIECE, end - start)))
        with journal.part.open("r+b", buffering=0) as file:
            position = start

            def read(request: Presigned) -> None:
                # A retry goes on behind what has arrived.
                nonlocal position
                file.seek(position)
                for piece in store.read(request, position, end, buffer):
                    _write(file, piece)
                    position += len(piece)
                    meter.add(len(piece))

            persist(read, link, store, self._retry, journal.part.name.removesuffix(".part"))
        journal.note(number)


class Journal:
    """Which ranges of `<name>.part` have arrived, one line each in `<name>.part.journal`.

    Its first line names the version; a journal of another version, or one that does not read, starts over.
    """

    def __init__(self, target: Path, answer: Download, range_size: int) -> None:
        self.part = target.with_name(target.name + ".part")
        self.path = target.with_name(target.name + ".part.journal")
        self._size = answer.size
        self._head = json.dumps(
            {"key": answer.key, "version": answer.version_id, "size": answer.size, "range": range_size}, sort_keys=True
        )
        self._lock = threading.Lock()

    def open(self) -> frozenset[int]:
        """Numbers of the ranges that are there already. Raises OSError when the disk has no room for the file."""
        had = self._read()
        if not had:
            with self.part.open("wb") as file:
                _reserve(file.fileno(), self._size)
            self.path.write_text(self._head + "\n")
        self._file = self.path.open("a")
        return had

    def _read(self) -> frozenset[int]:
        try:
            head, *lines = self.path.read_text().split("\n")
            if head != self._head or self.part.stat().st_size != self._size:
                return frozenset()
        except (OSError, UnicodeDecodeError):
            return frozenset()
        # The last element is the empty string behind the last newline, or a line that was cut off by the kill.
        return frozenset(int(line) for line in lines[:-1] if line.isdigit())

    def note(self, number: int) -> None:
        with self._lock:
            self._file.write(f"{number}\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def stream(look_up: Lookup, store: Store, retry: Retry, range_size: int = RANGE) -> Iterator[bytes]:
    """A file's bytes in order, a range at a time; a broken connection is taken up again where it broke.

    Raises ChecksumMismatch after the last byte when the whole was not what it should be.
    """
    answer = look_up()
    link = Link(lambda: _same_version(look_up(), answer).request, answer.request)
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(PIECE))
    for start in range(0, answer.size, range_size):
        block = bytearray(min(range_size, answer.size - start))
        filled = 0

        def fill(request: Presigned, start: int = start, block: bytearray = block) -> None:
            nonlocal filled
            for piece in store.read(request, start + filled, start + len(block), buffer):
                block[filled : filled + len(piece)] = piece
                filled += len(piece)

        persist(fill, link, store, retry, answer.key)
        digest.update(block)
        yield bytes(block)
    if answer.sha256 is not None and digest.hexdigest() != answer.sha256:
        raise ChecksumMismatch(f"{answer.key}: the bytes received are not those stored.", hint="Discard the output.")


def _write(file: FileIO, piece: memoryview) -> None:
    while piece:
        piece = piece[file.write(piece) :]


def _reserve(file: int, size: int) -> None:
    """Make the file as long as it will be; where the system can, take the room on disk now, not halfway through."""
    if size and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)


def _outcome(answer: Download, path: Path, received: int, *, unchanged: bool) -> Downloaded:
    return Downloaded(
        key=answer.key,
        path=path,
        version_id=answer.version_id,
        size=answer.size,
        received=received,
        unchanged=unchanged,
        verified=answer.sha256 is not None,
    )


def _same_version(fresh: Download, pinned: Download) -> Download:
    if fresh.version_id != pinned.version_id:
        raise ChecksumMismatch(f"{pinned.key} was replaced while it was downloaded.", hint="Run the same again.")
    return fresh
