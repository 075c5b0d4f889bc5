"""Files from this machine into a project: hash, ask, send in parallel, complete. Running it again resumes it.

It knows the upload routes and the Store; what a file means to DivBase is the gateway's matter.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from divbase_client.connection import Connection, path_of
from divbase_client.errors import ChecksumMismatch, ClientError
from divbase_client.models import (
    CompleteUpload,
    File,
    NewUpload,
    PartChecksum,
    Presigned,
    Upload,
    UploadedPart,
    UploadMode,
    UploadUrls,
    UploadUrlsRequest,
)
from divbase_client.retry import Retry
from divbase_client.transfers import Failed, Lanes, Link, Meter, Progress, persist, read_pieces, settle

INDEX_SUFFIXES = (".csi", ".tbi")


@dataclass(frozen=True)
class Source:
    """A file of this machine and the key that it is to have in the project."""

    path: Path
    key: str


@dataclass(frozen=True)
class Uploaded:
    """`sent`: bytes that went to S3 this time; 0 and `unchanged` when the project had this content already."""

    key: str
    file: File
    sent: int
    unchanged: bool


class Uploader:
    """Uploads into one project. `progress` is called from several threads, one call at a time for each file."""

    def __init__(
        self, connection: Connection, project: str, lanes: Lanes, retry: Retry, progress: Progress | None = None
    ) -> None:
        self._connection = connection
        self._project = project
        self._lanes = lanes
        self._retry = retry
        self._progress = progress

    def upload_all(self, sources: Iterable[Source]) -> Iterator[Uploaded | Failed]:
        """Several files side by side, indexes before the rest: the gateway looks for them when a file completes."""
        ordered = list(sources)
        indexes = [source for source in ordered if source.key.endswith(INDEX_SUFFIXES)]
        others = [source for source in ordered if not source.key.endswith(INDEX_SUFFIXES)]
        for batch in (indexes, others):
            yield from self._upload_batch(batch)

    def _upload_batch(self, batch: Sequence[Source]) -> Iterator[Uploaded | Failed]:
        futures = [(source, self._lanes.file(self.upload, source)) for source in batch]
        for source, future in futures:
            try:
                yield future.result()
            except (ClientError, OSError) as error:
                yield Failed(source.key, error)

    def upload(self, source: Source) -> Uploaded:
        """One file. Raises ChecksumMismatch when it changes while it is read, OSError when it cannot be read."""
        before = _stamp(source.path)
        size = before[0]
        sha256 = self._hash(source, size)
        upload = self._begin(NewUpload(key=source.key, size=size, sha256=sha256))
        if upload.mode is UploadMode.UNCHANGED and upload.file is not None:
            return Uploaded(source.key, upload.file, 0, unchanged=True)
        meter = Meter(source.key, "sending", size, self._progress)
        parts, sent = self._send(source, size, upload, meter)
        if _stamp(source.path) != before:
            raise ChecksumMismatch(f"{source.path} was changed while it was uploaded.", hint="Run the same again.")
        path = path_of("projects", self._project, "uploads", str(upload.id), "complete")
        file = self._connection.post(path, File, CompleteUpload(parts=parts))
        return Uploaded(source.key, file, sent, unchanged=False)

    def _begin(self, new: NewUpload) -> Upload:
        return self._connection.post(path_of("projects", self._project, "uploads"), Upload, new, creates=True)

    def _hash(self, source: Source, size: int) -> str:
        digest = hashlib.sha256()
        meter = Meter(source.key, "hashing", size, self._progress)
        for piece in read_pieces(source.path, 0, size, self._lanes.store.stopped):
            digest.update(piece)
            meter.add(len(piece))
        return digest.hexdigest()

    def _send(self, source: Source, size: int, upload: Upload, meter: Meter) -> tuple[list[UploadedPart], int]:
        part_size = upload.part_size or size if upload.mode is UploadMode.MULTIPART else size
        there = {part.number: part for part in upload.parts}
        starts = range(0, size, part_size) if size else range(1)
        futures: list[Future[tuple[UploadedPart, int]]] = [
            self._lanes.piece(
                self._send_part,
                _Part(source, str(upload.id), number, start, min(part_size, size - start)),
                there.get(number),
                meter,
            )
            for number, start in enumerate(starts, start=1)
        ]
        results = settle(futures)
        return [part for part, _ in results], sum(sent for _, sent in results)

    def _send_part(self, part: _Part, there: UploadedPart | None, meter: Meter) -> tuple[UploadedPart, int]:
        store = self._lanes.store
        digest = hashlib.md5(usedforsecurity=False)
        for piece in read_pieces(part.source.path, part.start, part.length, store.stopped):
            digest.update(piece)
        done = UploadedPart(number=part.number, etag=digest.hexdigest(), size=part.length)
        if there == done:
            meter.add(part.length)
            return done, 0

        def put(request: Presigned) -> None:
            counted = _Counted(read_pieces(part.source.path, part.start, part.length, store.stopped), meter)
            try:
                store.put(request, counted, part.length)
            except BaseException:
                counted.take_back()
                raise

        persist(put, self._link(part, digest.digest()), store, self._retry, part.source.key)
        return done, part.length

    def _link(self, part: _Part, md5: bytes) -> Link:
        wanted = UploadUrlsRequest(parts=[PartChecksum(number=part.number, md5=base64.b64encode(md5).decode())])
        path = path_of("projects", self._project, "uploads", part.upload, "urls")
        return Link(lambda: self._connection.post(path, UploadUrls, wanted).urls[0].request)


@dataclass(frozen=True)
class _Part:
    source: Source
    upload: str
    number: int
    start: int
    length: int


class _Counted(Iterator[memoryview]):
    """Pieces on their way to the socket, counted in `meter`; `take_back` when they have to go again."""

    def __init__(self, pieces: Iterator[memoryview], meter: Meter) -> None:
        self._pieces = pieces
        self._meter = meter
        self._count = 0

    def __next__(self) -> memoryview:
        piece = next(self._pieces)
        self._meter.add(len(piece))
        self._count += len(piece)
        return piece

    def take_back(self) -> None:
        self._meter.add(-self._count)
        self._count = 0


def _stamp(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ino
