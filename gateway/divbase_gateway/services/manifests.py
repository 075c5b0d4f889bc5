"""What a node that reaches S3 only is given with its script, and what it leaves there for the gateway to read
(docs/node-protocol.md). It asks the store and must not open a transaction."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from divbase_gateway.db.models import JobRow
from divbase_gateway.domain.errors import Conflict, NotFound
from divbase_gateway.domain.ids import new_id
from divbase_gateway.domain.queries import OutputFormat
from divbase_gateway.ports import Audience, ObjectStore
from divbase_gateway.services.attempts import (
    MARK,
    cache_for,
    is_joined_later,
    mark_of,
    output_key,
    output_keys,
    provenance_of,
    signed_inputs,
)
from divbase_gateway.services.policy import JobPolicy

FILE = "manifest.json"
"""Its name in the job's directory."""

_MIB = 1024 * 1024
_WORTH_PARTS = 256 * _MIB
"""A result that cannot be larger goes in one piece: an upload that is begun for each job costs the store something."""

_GROWTH = 4
"""How much larger than its inputs a result may be: merged genotypes and a faster compression level, with room."""

_TEXT_GROWTH = 10
"""How much larger again one that is text may be, which nothing compresses."""

_MOST_PARTS = 128
_LARGEST_PART = 5 * 1024 * _MIB  # S3's


_GIVEN_UP = b'{"claimant": "the gateway, which gave this attempt up"}'
"""What the gateway writes where a run would write its claim."""


@dataclass(frozen=True)
class SignedManifest:
    """The manifest of one attempt.

    Attributes:
        content: of the file, which is as good as a key to the attempt's inputs and outputs.
        uploads: the multipart upload that was begun for the result, as `AttemptRow.uploads` keeps it; or nothing.
    """

    content: bytes
    uploads: list[dict[str, Any]]


def control_key(job: str, number: int, name: str) -> str:
    """The object through which attempt `number` of a job, by its public id, says something: `claim` or `report`."""
    return f"results/{job}/.{name}-{number}"


def sign(job: JobRow, number: int, store: ObjectStore, policy: JobPolicy) -> SignedManifest:
    """All that attempt `number` needs, signed now for as long as the site allows.

    Raises:
        StoreUnavailable: an upload for the result could not be begun.
    """
    bucket, expires = job.project.bucket, policy.manifest_expiry
    metadata = {MARK: mark_of(job, number)}
    put = partial(_signed_put, store, bucket, expires)
    claim = control_key(job.public_id, number, "claim")
    may_claim = store.presign_put(bucket, claim, Audience.NODE, expires, None, {}, if_absent=True)
    outputs: dict[str, dict[str, Any]] = {
        role: {} if is_joined_later(job, role) else {"request": put(key, metadata)}
        for role, key in output_keys(job).items()
    }
    uploads = []
    larger = _TEXT_GROWTH if job.kind == "query" and OutputFormat(job.plan["output"]).is_text else 1
    part_size, count = parts_for(larger * int(job.plan.get("bytes_total") or 0), policy.part_size)
    if not count and is_joined_later(job, "result"):
        count = math.ceil(_WORTH_PARTS / part_size)
    if count and "result" in outputs:
        key = output_key(job, "result")
        upload = store.start_multipart(bucket, key, metadata)
        uploads = [{"name": job.plan["output_name"], "role": "result", "upload": upload}]
        signed = partial(_signed_part, store, bucket, key, upload, expires)
        outputs["result"] |= {"part_size": part_size, "parts": [signed(part) for part in range(1, count + 1)]}
    manifest = {
        "job": job.public_id,
        "attempt": number,
        "kind": job.kind,
        "inputs": [asdict(each) for each in signed_inputs(job, store, expires)],
        "part_size": policy.part_size,
        "retry_for_s": policy.retry_for_s,
        "provenance": provenance_of(job),
        "cache": asdict(cache) if (cache := cache_for(job, policy)) else None,
        "expires_at": int(may_claim.expires_at.timestamp()),  # the first to expire
        "claim": {
            "put": asdict(may_claim),
            "get": asdict(store.presign_get(bucket, claim, None, Audience.NODE, expires)),
        },
        "report": put(control_key(job.public_id, number, "report"), {}),
        "outputs": outputs,
    }
    return SignedManifest(json.dumps(manifest, default=_plain).encode(), uploads)


def parts_for(bytes_total: int, part_size: int) -> tuple[int, int]:
    """(part size in bytes, number of parts) for the largest result that inputs of so many bytes may have; (…, 0): one
    piece will do."""
    bound = _GROWTH * bytes_total
    if bound <= max(_WORTH_PARTS, part_size):
        return part_size, 0
    size = max(part_size, math.ceil(bound / _MOST_PARTS / _MIB) * _MIB)
    size = min(size, _LARGEST_PART)
    return size, min(_MOST_PARTS, math.ceil(bound / size))


def _signed_put(
    store: ObjectStore, bucket: str, expires: timedelta, key: str, metadata: dict[str, str]
) -> dict[str, Any]:
    return asdict(store.presign_put(bucket, key, Audience.NODE, expires, None, metadata))


def _signed_part(
    store: ObjectStore, bucket: str, key: str, upload: str, expires: timedelta, number: int
) -> dict[str, Any]:
    return asdict(store.presign_part(bucket, key, upload, number, Audience.NODE, expires, None))


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{value!r} has no place in a manifest")


# --- what the gateway does with the attempt's objects --------------------------------------------------------------


def close_claim(store: ObjectStore, bucket: str, job: str, number: int) -> bool:
    """Take the claim of an attempt that is to be given up, so that a run of it that turns up late does nothing.

    Returns:
        False: a run has it already.

    Raises:
        StoreUnavailable: nobody knows.
    """
    key = control_key(job, number, "claim")
    try:
        store.write(bucket, key, _GIVEN_UP, if_absent=True)
    except Conflict:  # perhaps it was ourselves, before a kill or with a lost answer
        return store.read(bucket, key, None, 0, len(_GIVEN_UP) + 1) == _GIVEN_UP
    return True


def require_conditional_put(store: ObjectStore, bucket: str) -> None:
    """Try what a claim stands on, with an object that is removed again.

    Raises:
        Conflict: the store takes both of two PUTs of which it should refuse the second.
        StoreUnavailable: it does not answer, or does not know such a PUT.
    """
    key = f".divbase/probe-{new_id(10)}"
    store.write(bucket, key, b"first", if_absent=True)
    try:
        with suppress(Conflict):
            store.write(bucket, key, b"second", if_absent=True)
        kept = store.read(bucket, key, None, 0, 10)
    finally:
        for each in [each for each in store.list_versions(bucket, key) if each.key == key]:
            store.delete_version(bucket, key, each.version_id)
    if kept != b"first":
        raise Conflict("The object store does not keep to `If-None-Match: *`: it overwrote an object all the same.")


def abort_uploads(store: ObjectStore, job: JobRow, uploads: list[dict[str, Any]]) -> None:
    """Parts of a result that was never joined cost room for good; a joined upload is not touched by this.

    Raises:
        StoreUnavailable
    """
    for output in uploads:
        if output["upload"] is not None:
            with suppress(NotFound):  # the bucket, and with it the parts
                store.abort_multipart(job.project.bucket, output_key(job, output["role"]), output["upload"])


def remove_control_objects(store: ObjectStore, bucket: str, job: str, number: int) -> None:
    """Remove claim and report of an attempt, every version. Only when its manifest is gone, and nobody can claim it.

    Raises:
        StoreUnavailable
    """
    keys = {control_key(job, number, name) for name in ("claim", "report")}
    with suppress(NotFound):  # the bucket, and with it all of them
        found = [each for each in store.list_versions(bucket, f"results/{job}/.") if each.key in keys]
        for each in found:
            with suppress(NotFound):
                store.delete_version(bucket, each.key, each.version_id)
