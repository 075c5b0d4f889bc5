"""The object store port on any S3 server, through boto3. It knows buckets, keys and versions, not projects or files.

Presigned URLs are never logged: who has one needs nothing else. They carry the name by which their reader sees the
store, so there is one signer per audience.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from urllib3.exceptions import HTTPError

from divbase_gateway.domain.checksums import content_md5, etag_of_parts, md5_of, md5_of_etag
from divbase_gateway.domain.errors import Conflict, NotFound, StoreUnavailable
from divbase_gateway.ports import Audience, ObjectInfo, ObjectVersion, Part, PresignedRequest
from divbase_gateway.s3 import listing
from divbase_gateway.s3.errors import code_of, translate
from divbase_gateway.s3.signing import Credentials, Signer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

MAX_EXPIRY = timedelta(days=7)
"""The longest life of a presigned URL that Signature Version 4 allows."""

_CONTENT_TYPE = "application/octet-stream"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class S3Store:
    """An S3 server as the `ObjectStore` port describes it. Safe to use from many threads at once.

    Args:
        endpoint, public_endpoint, node_endpoint: its URL as the gateway, laptops and compute nodes see it; the last
            two are as the first where not given.
        region: the region that requests are signed for.
        access_key, secret_key: the gateway's own; empty for whatever boto3 finds (an instance role, for example).
        connect_timeout_s, read_timeout_s: for each attempt at a request.
        attempts: tries of one request, the first included.
        connections: kept open; as many as there are threads that use the store at once.
    """

    def __init__(
        self,
        endpoint: str,
        public_endpoint: str | None = None,
        node_endpoint: str | None = None,
        region: str = "us-east-1",
        access_key: str = "",
        secret_key: str = "",
        *,
        connect_timeout_s: float = 5,
        read_timeout_s: float = 60,
        attempts: int = 3,
        connections: int = 64,
    ):
        logging.getLogger("botocore").setLevel(logging.INFO)  # at DEBUG it logs what it signs, signature included
        self._endpoint = endpoint
        self._region = region
        self._session = boto3.Session(access_key or None, secret_key or None, region_name=region)
        self._config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            connect_timeout=connect_timeout_s,
            read_timeout=read_timeout_s,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=connections,
            # the newer checksum headers break stores that do not know them; Content-MD5 guards what we write
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        self._client = self._client_for(endpoint)
        listing.keep_version_order(self._client)
        self._signers = {
            Audience.LAPTOP: Signer(public_endpoint or endpoint, region),
            Audience.NODE: Signer(node_endpoint or endpoint, region),
        }

    # --- buckets and objects -------------------------------------------------------------------------------------

    def ensure_bucket(self, bucket: str) -> bool:
        with self._asking(f"looking for bucket {bucket!r}"):
            created = not self._has_bucket(bucket) and self._create_bucket(bucket)
            if self._versioning(bucket) != "Enabled":
                self._client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
            status = self._versioning(bucket)
        if status != "Enabled":
            raise Conflict(
                f"Versioning of bucket {bucket!r} at {self._endpoint} stays {status or 'off'} when switched on.",
                hint="DivBase needs a store with versioning: queries are pinned to versions of their files.",
                details={"bucket": bucket, "versioning": status},
            )
        return created

    def head(self, bucket: str, key: str, version_id: str | None = None) -> ObjectInfo:
        with self._asking(f"looking at {_named(bucket, key, version_id)}"):
            if version_id is None:
                answer = self._client.head_object(Bucket=bucket, Key=key)
            else:
                answer = self._client.head_object(Bucket=bucket, Key=key, VersionId=version_id)
        return ObjectInfo(
            key=key,
            version_id=answer.get("VersionId", version_id or "null"),
            size=answer["ContentLength"],
            etag=answer["ETag"].strip('"'),
            modified_at=answer["LastModified"].astimezone(UTC),
            metadata={name.lower(): value for name, value in answer.get("Metadata", {}).items()},
        )

    def read(self, bucket: str, key: str, version_id: str | None, start: int, length: int) -> bytes:
        if length <= 0:
            self.head(bucket, key, version_id)
            return b""
        try:
            with self._asking(f"reading {_named(bucket, key, version_id)}"):
                body = self._get(bucket, key, version_id, f"bytes={start}-{start + length - 1}")["Body"].read()
        except StoreUnavailable as error:
            if error.details.get("code") == "InvalidRange":  # the object ends before `start`
                return b""
            raise
        if len(body) > length:
            raise StoreUnavailable(
                f"The object store at {self._endpoint} ignored the range that was asked for.",
                hint="DivBase needs a store that answers range requests.",
                details={"asked": length, "received": len(body)},
            )
        return body

    def write(
        self,
        bucket: str,
        key: str,
        body: bytes,
        metadata: Mapping[str, str] | None = None,
        *,
        if_absent: bool = False,
    ) -> ObjectInfo:
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {}
        with self._asking(f"writing {_named(bucket, key)}"):
            answer = self._client.put_object(
                Bucket=bucket,
                Key=key,
                Body=body,
                ContentMD5=content_md5(md5_of(body)),
                ContentType=_CONTENT_TYPE,
                Metadata=metadata or {},
                **condition,
            )
        return self.head(bucket, key, answer.get("VersionId"))

    def list_objects(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        for version in self.list_versions(bucket, prefix):  # the plain listing does not say which version is current
            if version.is_latest and not version.deleted:
                yield ObjectInfo(version.key, version.version_id, version.size, version.etag, version.modified_at)

    def list_versions(self, bucket: str, prefix: str = "") -> Iterator[ObjectVersion]:
        with self._asking(f"listing bucket {bucket!r}"):
            for entry in listing.versions(self._client, bucket, prefix):
                yield _object_version(entry)

    def delete(self, bucket: str, key: str) -> str:
        self.head(bucket, key)  # S3 itself would put a marker on what never was
        with self._asking(f"deleting {_named(bucket, key)}"):
            answer = self._client.delete_object(Bucket=bucket, Key=key)
        return answer.get("VersionId", "null")

    def delete_version(self, bucket: str, key: str, version_id: str) -> None:
        if not any(version.version_id == version_id for version in self._versions_of(bucket, key)):
            raise NotFound(f"There is no {_named(bucket, key, version_id)}.", details={"version_id": version_id})
        with self._asking(f"removing {_named(bucket, key, version_id)}"):
            self._client.delete_object(Bucket=bucket, Key=key, VersionId=version_id)

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
        query = {} if version_id is None else {"versionId": version_id}
        if filename is not None:
            query["response-content-disposition"] = _attachment(filename)
        return self._presign("GET", bucket, key, query, audience, expires, {})

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
        headers = {"Content-Type": _CONTENT_TYPE}
        headers |= {f"x-amz-meta-{name.lower()}": value for name, value in metadata.items()}
        if content_md5 is not None:
            headers["Content-MD5"] = content_md5
        if if_absent:
            headers["If-None-Match"] = "*"
        return self._presign("PUT", bucket, key, {}, audience, expires, headers)

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
        query = {"partNumber": str(number), "uploadId": upload_id}
        headers = {} if content_md5 is None else {"Content-MD5": content_md5}
        return self._presign("PUT", bucket, key, query, audience, expires, headers)

    # --- multipart uploads ---------------------------------------------------------------------------------------

    def start_multipart(self, bucket: str, key: str, metadata: Mapping[str, str]) -> str:
        with self._asking(f"starting an upload of {_named(bucket, key)}"):
            answer = self._client.create_multipart_upload(
                Bucket=bucket, Key=key, ContentType=_CONTENT_TYPE, Metadata=metadata
            )
        return answer["UploadId"]

    def list_parts(self, bucket: str, key: str, upload_id: str) -> list[Part]:
        with self._asking(f"listing the parts of an upload of {_named(bucket, key)}"):
            pages = self._client.get_paginator("list_parts").paginate(Bucket=bucket, Key=key, UploadId=upload_id)
            sent = [part for page in pages for part in page.get("Parts", [])]
        # SeaweedFS lists every sending of a part number; the last one counts
        last = {part["PartNumber"]: part for part in sorted(sent, key=lambda part: part["LastModified"])}
        return [Part(number, part["ETag"].strip('"'), part["Size"]) for number, part in sorted(last.items())]

    def complete_multipart(self, bucket: str, key: str, upload_id: str, parts: Sequence[Part]) -> ObjectInfo:
        if not parts:
            raise Conflict(f"The upload of {_named(bucket, key)} has no parts to join.")
        expected = etag_of_parts([_md5_of_part(part) for part in parts])
        try:
            with self._asking(f"completing the upload of {_named(bucket, key)}"):
                answer = self._client.complete_multipart_upload(
                    Bucket=bucket,
                    Key=key,
                    UploadId=upload_id,
                    MultipartUpload={"Parts": [{"PartNumber": p.number, "ETag": f'"{p.etag}"'} for p in parts]},
                )
        except NotFound:
            return self._completed_before(bucket, key, expected)
        return self._joined(bucket, key, expected, answer["ETag"].strip('"'), answer.get("VersionId"))

    def abort_multipart(self, bucket: str, key: str, upload_id: str) -> None:
        try:
            with self._asking(f"aborting the upload of {_named(bucket, key)}"):
                self._client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
        except NotFound as error:
            if error.details.get("code") != "NoSuchUpload":
                raise

    def ping(self) -> str:
        with self._asking("listing buckets"):
            self._client.list_buckets()
        return f"S3 at {self._endpoint}"

    # --- below the port ------------------------------------------------------------------------------------------

    def _client_for(self, endpoint: str) -> S3Client:
        direct = urlsplit(endpoint).hostname in _LOOPBACK  # no proxy of the site can reach this machine's loopback
        config = self._config.merge(Config(proxies={})) if direct else self._config
        return self._session.client("s3", endpoint_url=endpoint, config=config)

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError, HTTPError, OSError) as exc:
            raise translate(exc, what, self._endpoint) from exc

    def _has_bucket(self, bucket: str) -> bool:
        try:
            self._client.head_bucket(Bucket=bucket)
        except ClientError as exc:
            if code_of(exc) in ("404", "NoSuchBucket", "NotFound"):
                return False
            raise
        return True

    def _create_bucket(self, bucket: str) -> bool:
        place: Any = {}
        if self._region != "us-east-1":  # S3 wants the region named, except this one
            place = {"CreateBucketConfiguration": {"LocationConstraint": self._region}}
        try:
            self._client.create_bucket(Bucket=bucket, **place)
        except ClientError as exc:
            if code_of(exc) == "BucketAlreadyOwnedByYou":  # another request was faster
                return False
            raise
        return True

    def _versioning(self, bucket: str) -> str:
        return self._client.get_bucket_versioning(Bucket=bucket).get("Status", "")

    def _get(self, bucket: str, key: str, version_id: str | None, span: str) -> GetObjectOutputTypeDef:
        if version_id is None:
            return self._client.get_object(Bucket=bucket, Key=key, Range=span)
        return self._client.get_object(Bucket=bucket, Key=key, Range=span, VersionId=version_id)

    def _versions_of(self, bucket: str, key: str) -> Iterator[ObjectVersion]:
        for version in self.list_versions(bucket, key):
            if version.key != key:  # a key comes first among those that begin with it
                return
            yield version

    def _completed_before(self, bucket: str, key: str, expected: str) -> ObjectInfo:
        """The version that these parts were joined into earlier, the newest where there are several."""
        for version in self._versions_of(bucket, key):
            if version.etag == expected:
                return self.head(bucket, key, version.version_id)
        raise NotFound(
            f"The upload of {_named(bucket, key)} is unknown to the store, and no version there has these parts.",
            hint="It was aborted, or it expired; start the upload again.",
            details={"code": "NoSuchUpload", "expected_etag": expected},
        )

    def _joined(self, bucket: str, key: str, expected: str, etag: str, version_id: str | None) -> ObjectInfo:
        """SeaweedFS answers a second completion from the first, without looking at the parts: so we look."""
        if etag != expected:
            raise Conflict(
                f"The store joined other parts into {_named(bucket, key)} than were asked for.",
                hint="Start the upload again.",
                details={"etag": etag, "expected_etag": expected},
            )
        return self.head(bucket, key, version_id)

    def _presign(
        self,
        method: Literal["GET", "PUT"],
        bucket: str,
        key: str,
        query: Mapping[str, str],
        audience: Audience,
        expires: timedelta,
        headers: Mapping[str, str],
    ) -> PresignedRequest:
        if not timedelta(0) < expires <= MAX_EXPIRY:
            raise ValueError(f"a presigned URL lives up to 7 days, not {expires}")
        seconds, now = math.ceil(expires.total_seconds()), datetime.now(UTC)
        with self._asking(f"signing a request for {_named(bucket, key)}"):
            credentials = self._credentials()
        path = f"{bucket}/{key}"
        url = self._signers[audience].sign(credentials, method, path, query, headers, now, seconds)
        return PresignedRequest(method, url, dict(headers), now + timedelta(seconds=seconds))

    def _credentials(self) -> Credentials:
        """Those of this moment: a role's are replaced every few hours."""
        found = self._session.get_credentials()
        if found is None:
            raise NoCredentialsError
        current = found.get_frozen_credentials()
        return Credentials(str(current.access_key), str(current.secret_key), current.token)


def _named(bucket: str, key: str, version_id: str | None = None) -> str:
    version = f"version {version_id!r} of " if version_id else ""
    return f"{version}key {key!r} in bucket {bucket!r}"


def _object_version(entry: listing.Entry) -> ObjectVersion:
    return ObjectVersion(
        key=entry["Key"],
        version_id=entry["VersionId"],
        size=entry.get("Size", 0),
        etag=entry.get("ETag", "").strip('"'),
        modified_at=entry["LastModified"].astimezone(UTC),
        is_latest=entry["IsLatest"],
        deleted="Size" not in entry,
    )


def _md5_of_part(part: Part) -> bytes:
    try:
        return md5_of_etag(part.etag)
    except ValueError as exc:
        raise Conflict(
            f"Part {part.number} has the ETag {part.etag!r}, which is not an MD5.",
            hint="DivBase cannot check uploads to a bucket that is encrypted with SSE-KMS or SSE-C.",
        ) from exc


def _attachment(filename: str) -> str:
    """A Content-Disposition (RFC 6266): a plain name for old readers, and the whole name in UTF-8 for the rest."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%' else "_" for c in filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
