"""Lists versions completely and in key order, also where a store does neither. It knows pages, not the port.

Two stores' ways are evened out here. S3 mixes versions and delete markers in its answer, newest first, and botocore
parses them into two lists, which loses the order (times have only seconds). SeaweedFS 4.48 loses keys at the end of
a page of 1000: while it is inside the folder `a/` it passes over `a-1` and `a.vcf`, which sort before `a/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.paginator import ListObjectVersionsPaginator

Entry = Mapping[str, Any]


def keep_version_order(client: S3Client) -> None:
    """Make this client parse delete markers into `Versions`, where they stand; they are the entries without `Size`."""
    client.meta.events.register("before-parse.s3.ListObjectVersions", _merge_delete_markers)


def _merge_delete_markers(response_dict: dict[str, Any], **_: object) -> None:
    body: bytes = response_dict["body"]  # a key cannot contain these tags: `<` is escaped in it
    body = body.replace(b"<DeleteMarker>", b"<Version>").replace(b"</DeleteMarker>", b"</Version>")
    response_dict["body"] = body


def versions(client: S3Client, bucket: str, prefix: str) -> Iterator[Entry]:
    """Versions and delete markers under a prefix, by key, newest first. `client` went through keep_version_order."""
    paginator = client.get_paginator("list_object_versions")
    for page in paginator.paginate(Bucket=bucket, Prefix=prefix):
        if page.get("IsTruncated") and _loses_keys_at_page_ends(page):
            yield from _by_folder(paginator, bucket, prefix)
            return
        yield from _in_key_order(page.get("Versions", []))


def _loses_keys_at_page_ends(page: Entry) -> bool:
    return str(page["ResponseMetadata"]["HTTPHeaders"].get("server", "")).startswith("SeaweedFS")


def _by_folder(paginator: ListObjectVersionsPaginator, bucket: str, prefix: str) -> Iterator[Entry]:
    """One folder at a time, so that a page ends inside a folder only where that folder alone has 1000 entries.

    What is left: in such a folder, a page may end at a subfolder `a/` and lose its neighbours `a-1` and `a.vcf`.
    """
    level: list[Entry] = []
    for page in paginator.paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"):
        level += page.get("Versions", [])
        level += [{"Key": folder["Prefix"], "folder": True} for folder in page.get("CommonPrefixes", [])]
    seen: set[str] = set()
    for entry in _in_key_order(level):
        if not entry.get("folder"):
            yield entry
        elif entry["Key"] not in seen:
            seen.add(entry["Key"])
            yield from _by_folder(paginator, bucket, entry["Key"])


def _in_key_order(entries: Iterable[Entry]) -> list[Entry]:
    """Sorted by the bytes of the key, as S3 does; entries of one key stay as they are."""
    return sorted(entries, key=lambda entry: str(entry["Key"]).encode("utf-8", "surrogatepass"))
