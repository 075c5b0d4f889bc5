"""An object store in memory that keeps the port's contract, with faults to switch on. It opens no socket.

Presigned requests are made with `send`, which checks what the real store checks: signature, headers, MD5, expiry.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from divbase_gateway.domain.checksums import content_md5 as header_of
from divbase_gateway.domain.checksums import etag_of_object, etag_of_parts, md5_of, md5_of_etag
from divbase_gateway.domain.errors import Conflict, NotFound, StoreUnavailable
from divbase_gateway.ports import Audience, ObjectInfo, ObjectVersion, Part, PresignedRequest


@dataclass(frozen=True)
class Answer:
    """What a presigned request got: HTTP status, headers in lower case, body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class _Stored:
    info: ObjectInfo
    body: bytes
    deleted: bool = False


@dataclass
class _Upload:
    key: str
    metadata: dict[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass
class _Bucket:
    versions: dict[str, list[_Stored]] = field(default_factory=dict)  # by key, oldest first
    uploads: dict[str, _Upload] = field(default_factory=dict)


@dataclass(frozen=True)
class _Grant:
    request: PresignedRequest
    serve: Callable[[Mapping[str, str], bytes], Answer]


class FakeObjectStore:
    """Implements `ports.ObjectStore`.

    Attributes:
        away: while True every method raises StoreUnavailable, and `send` does too.
        lose_answer_of: names of methods whose next call does its work and then raises StoreUnavailable, once.
        calls: the names of the methods that were called, in order.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)):
        self.away = False
        self.lose_answer_of: set[str] = set()
        self.calls: list[str] = []
        self._now = now
        self._buckets: dict[str, _Bucket] = {}
        self._grants: dict[str, _Grant] = {}
        self._serial = itertools.count(1)

    # --- buckets and objects -------------------------------------------------------------------------------------

    def ensure_bucket(self, bucket: str) -> bool:
        self._called("ensure_bucket")
        created = bucket not in self._buckets
        self._buckets.setdefault(bucket, _Bucket())
        self._answered("ensure_bucket")
        return created

    def head(self, bucket: str, key: str, version_id: str | None = None) -> ObjectInfo:
        self._called("head")
        return self._find(bucket, key, version_id).info

    def read(self, bucket: str, key: str, version_id: str | None, start: int, length: int) -> bytes:
        self._called("read")
        return self._find(bucket, key, version_id).body[start : start + max(length, 0)]

    def write(
        self,
        bucket: str,
        key: str,
        body: bytes,
        metadata: Mapping[str, str] | None = None,
        *,
        if_absent: bool = False,
    ) -> ObjectInfo:
        self._called("write")
        if if_absent and self._has(bucket, key):
            raise Conflict(f"There is a {key!r} in {bucket!r} already.")
        info = self._store(bucket, key, body, etag_of_object(md5_of(body)), metadata or {})
        self._answered("write")
        return info

    def list_objects(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        self._called("list_objects")
        for key, stored in sorted(self._bucket(bucket).versions.items(), key=lambda item: item[0].encode()):
            if key.startswith(prefix) and not stored[-1].deleted:
                yield replace(stored[-1].info, metadata={})

    def list_versions(self, bucket: str, prefix: str = "") -> Iterator[ObjectVersion]:
        self._called("list_versions")
        for key, stored in sorted(self._bucket(bucket).versions.items(), key=lambda item: item[0].encode()):
            for version in reversed(stored if key.startswith(prefix) else []):
                info = version.info
                yield ObjectVersion(
                    key, info.version_id, info.size, info.etag, info.modified_at, version is stored[-1], version.deleted
                )

    def delete(self, bucket: str, key: str) -> str:
        self._called("delete")
        self._find(bucket, key, None)
        marker = ObjectInfo(key, self._new_id(), 0, "", self._now())
        self._bucket(bucket).versions[key].append(_Stored(marker, b"", deleted=True))
        self._answered("delete")
        return marker.version_id

    def delete_version(self, bucket: str, key: str, version_id: str) -> None:
        self._called("delete_version")
        stored = self._bucket(bucket).versions.get(key, [])
        kept = [version for version in stored if version.info.version_id != version_id]
        if len(kept) == len(stored):
            raise NotFound(f"There is no version {version_id!r} of {key!r} in {bucket!r}.")
        if kept:
            self._bucket(bucket).versions[key] = kept
        else:
            del self._bucket(bucket).versions[key]
        self._answered("delete_version")

    # --- requests for others to make -----------------------------------------------------------------------------

    def presign_get(
        self,
        bucket: str,
        key: str,
        version_id: str | None,
        audience: Audience,
        expires: timedelta,
        filename: str | None = None,
    ) -> PresignedRequest:
        self._called("presign_get")

        def serve(headers: Mapping[str, str], body: bytes) -> Answer:
            stored = self._find(bucket, key, version_id)
            extra = {"etag": f'"{stored.info.etag}"', "x-amz-version-id": stored.info.version_id}
            if filename is not None:
                extra["content-disposition"] = f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
            return _ranged(stored.body, headers.get("range"), extra)

        return self._grant("GET", bucket, key, audience, expires, {}, serve)

    def presign_put(
        self,
        bucket: str,
        key: str,
        audience: Audience,
        expires: timedelta,
        content_md5: str | None,
        metadata: Mapping[str, str],
        *,
        if_absent: bool = False,
    ) -> PresignedRequest:
        self._called("presign_put")

        def serve(headers: Mapping[str, str], body: bytes) -> Answer:
            if if_absent and self._has(bucket, key):
                return Answer(412, body=b"PreconditionFailed")
            info = self._store(bucket, key, body, etag_of_object(md5_of(body)), metadata)
            return Answer(200, {"etag": f'"{info.etag}"', "x-amz-version-id": info.version_id})

        headers = _md5_header(content_md5) | {f"x-amz-meta-{name.lower()}": value for name, value in metadata.items()}
        if if_absent:
            headers["If-None-Match"] = "*"
        return self._grant("PUT", bucket, key, audience, expires, headers, serve)

    def presign_part(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        number: int,
        audience: Audience,
        expires: timedelta,
        content_md5: str | None,
    ) -> PresignedRequest:
        self._called("presign_part")

        def serve(headers: Mapping[str, str], body: bytes) -> Answer:
            self._upload(bucket, key, upload_id).parts[number] = body
            return Answer(200, {"etag": f'"{etag_of_object(md5_of(body))}"'})

        return self._grant("PUT", bucket, key, audience, expires, _md5_header(content_md5), serve)

    def send(self, request: PresignedRequest, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """Make a presigned request as its bearer would, over the network that `away` cuts."""
        self._reachable()
        grant = self._grants.get(request.url)
        sent = {name.lower(): value for name, value in headers.items()}
        if grant is None or not _sends_all(sent, grant.request.headers):
            return Answer(403, body=b"SignatureDoesNotMatch")
        if self._now() > grant.request.expires_at:
            return Answer(403, body=b"Request has expired")
        if "content-md5" in sent and sent["content-md5"] != header_of(md5_of(body)):
            return Answer(400, body=b"BadDigest")
        try:
            return grant.serve(sent, body)
        except NotFound as error:
            return Answer(404, body=error.message.encode())

    # --- multipart uploads ---------------------------------------------------------------------------------------

    def start_multipart(self, bucket: str, key: str, metadata: Mapping[str, str]) -> str:
        self._called("start_multipart")
        upload_id = self._new_id()
        self._bucket(bucket).uploads[upload_id] = _Upload(key, dict(metadata))
        self._answered("start_multipart")
        return upload_id

    def list_parts(self, bucket: str, key: str, upload_id: str) -> list[Part]:
        self._called("list_parts")
        parts = self._upload(bucket, key, upload_id).parts
        return [Part(number, etag_of_object(md5_of(body)), len(body)) for number, body in sorted(parts.items())]

    def complete_multipart(self, bucket: str, key: str, upload_id: str, parts: Sequence[Part]) -> ObjectInfo:
        self._called("complete_multipart")
        if not parts:
            raise Conflict(f"The upload of {key!r} has no parts to join.")
        expected = etag_of_parts([md5_of_etag(part.etag) for part in parts])
        if upload_id not in self._bucket(bucket).uploads:
            return self._completed_before(bucket, key, expected)
        upload = self._upload(bucket, key, upload_id)
        have = {number: etag_of_object(md5_of(body)) for number, body in upload.parts.items()}
        if any(have.get(part.number) != part.etag for part in parts):
            raise Conflict(f"The upload of {key!r} has other parts.")
        body = b"".join(upload.parts[part.number] for part in parts)
        info = self._store(bucket, key, body, expected, upload.metadata)
        self._bucket(bucket).uploads.pop(upload_id, None)  # a second call may have joined the same parts meanwhile
        self._answered("complete_multipart")
        return info

    def abort_multipart(self, bucket: str, key: str, upload_id: str) -> None:
        self._called("abort_multipart")
        self._bucket(bucket).uploads.pop(upload_id, None)
        self._answered("abort_multipart")

    def ping(self) -> str:
        self._called("ping")
        return "S3 in memory"

    # --- below the port ------------------------------------------------------------------------------------------

    def _called(self, method: str) -> None:
        self.calls.append(method)
        self._reachable()

    def _reachable(self) -> None:
        if self.away:
            raise StoreUnavailable("The object store in memory was told to be away.")

    def _answered(self, method: str) -> None:
        if method in self.lose_answer_of:
            self.lose_answer_of.discard(method)
            raise StoreUnavailable(f"The answer to {method} was lost.")

    def _bucket(self, bucket: str) -> _Bucket:
        if bucket not in self._buckets:
            raise NotFound(f"There is no bucket {bucket!r}.")
        return self._buckets[bucket]

    def _has(self, bucket: str, key: str) -> bool:
        stored = self._bucket(bucket).versions.get(key, [])
        return bool(stored) and not stored[-1].deleted

    def _find(self, bucket: str, key: str, version_id: str | None) -> _Stored:
        stored = self._bucket(bucket).versions.get(key, [])
        asked = stored[-1:] if version_id is None else [v for v in stored if v.info.version_id == version_id]
        if not asked or asked[0].deleted:
            raise NotFound(f"There is no {key!r} (version {version_id}) in {bucket!r}.")
        return asked[0]

    def _upload(self, bucket: str, key: str, upload_id: str) -> _Upload:
        upload = self._bucket(bucket).uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise NotFound(f"There is no upload {upload_id!r} of {key!r}.", details={"code": "NoSuchUpload"})
        return upload

    def _store(self, bucket: str, key: str, body: bytes, etag: str, metadata: Mapping[str, str]) -> ObjectInfo:
        lower = {name.lower(): value for name, value in metadata.items()}
        info = ObjectInfo(key, self._new_id(), len(body), etag, self._now(), lower)
        self._bucket(bucket).versions.setdefault(key, []).append(_Stored(info, body))
        return info

    def _completed_before(self, bucket: str, key: str, expected: str) -> ObjectInfo:
        for version in reversed(self._bucket(bucket).versions.get(key, [])):
            if version.info.etag == expected:
                return version.info
        raise NotFound(f"There is no such upload of {key!r}.", details={"code": "NoSuchUpload"})

    def _grant(
        self,
        method: str,
        bucket: str,
        key: str,
        audience: Audience,
        expires: timedelta,
        headers: Mapping[str, str],
        serve: Callable[[Mapping[str, str], bytes], Answer],
    ) -> PresignedRequest:
        url = f"http://{audience.value}.s3.test/{bucket}/{quote(key)}?X-Amz-Signature={self._new_id()}"
        request = PresignedRequest(method, url, dict(headers), self._now() + expires)
        self._grants[url] = _Grant(request, serve)
        return request

    def _new_id(self) -> str:
        return f"{next(self._serial):032x}"


def _md5_header(content_md5: str | None) -> dict[str, str]:
    return {} if content_md5 is None else {"Content-MD5": content_md5}


def _sends_all(sent: Mapping[str, str], signed: Mapping[str, str]) -> bool:
    return all(sent.get(name.lower()) == value for name, value in signed.items())


def _ranged(body: bytes, asked: str | None, headers: Mapping[str, str]) -> Answer:
    if asked is None:
        return Answer(200, headers, body)
    span = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
    if span is None or int(span[1]) >= len(body):
        return Answer(416, headers)
    end = min(int(span[2]) if span[2] else len(body) - 1, len(body) - 1)
    part = body[int(span[1]) : end + 1]
    return Answer(206, {**headers, "content-range": f"bytes {span[1]}-{end}/{len(body)}"}, part)
