"""Reads what an attempt left in S3 where its node cannot reach the gateway: the claim, and the report of its end.

They are the words of a node, so they are looked at as closely as a request is. It must not open a transaction.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from divbase_gateway.domain.checksums import etag_of_parts
from divbase_gateway.domain.errors import Conflict, NotFound
from divbase_gateway.domain.jobs import Reason
from divbase_gateway.ports import ObjectStore, Part
from divbase_gateway.services.manifests import control_key

_MOST_BYTES = 1024 * 1024
_Md5 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{22}==$")]


class _FromNode(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Claim(_FromNode):
    """Who has the attempt, by its own word."""

    claimant: str = Field(min_length=8, max_length=64)
    host: str = Field(max_length=255)
    slurm_job_id: str | None = Field(default=None, max_length=64)


class _Output(_FromNode):
    name: str = Field(min_length=1, max_length=200)
    role: Literal["result", "index", "provenance", "log"]
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    md5s: list[_Md5] = Field(min_length=1, max_length=10_000)
    multipart: bool
    version_id: str | None = Field(default=None, pattern=r"^[!-~]{1,255}$")


class _Report(_FromNode):
    status: Literal["succeeded", "failed"]
    claim: Claim
    reason: str | None = Field(default=None, max_length=40)
    message: str | None = Field(default=None, max_length=64 * 1024)
    outputs: list[_Output] = Field(default_factory=list, max_length=10)
    counts: dict[str, int | None] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)
    tools: dict[str, str | None] = Field(default_factory=dict)
    log_tail: str | None = Field(default=None, max_length=256 * 1024)


@dataclass(frozen=True)
class Post:
    """Where an attempt leaves its words and outputs.

    Attributes:
        keys: role -> key of each output that it may have.
        uploads: role -> id of the multipart upload that was begun for it.
        joined_later: roles whose parts stay as they are for now.
    """

    bucket: str
    job: str
    number: int
    keys: dict[str, str]
    uploads: dict[str, str]
    joined_later: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Words:
    """What was found: neither, the claim of a run that did not come to its end, or both."""

    claim: Claim | None
    report: dict[str, Any] | None


def collect(store: ObjectStore, post: Post) -> Words:
    """What an attempt left; outputs that it sent in parts are joined. Doing it again is no error.

    Returns:
        the report in the form in which the gateway keeps one, each output with its version and the ETag that follows
        from the MD5s that its sender stated.

    Raises:
        StoreUnavailable: nothing follows from that.
    """
    body = _read(store, post, "report")
    if body is None:
        return Words(_claim_of(_read(store, post, "claim")), None)
    try:
        report = _Report.model_validate_json(body)
        return Words(report.claim, _kept(store, post, report))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(each) for each in fault["loc"])
        words = f"The job's report cannot be read: {where}: {fault['msg']}."
        return Words(None, _failed({"outputs": []}, Reason.INTERNAL_ERROR, words))
    except (Conflict, NotFound) as error:
        words = f"The store has not what the job says that it sent: {error.message}"
        kept = report.model_dump(mode="json", exclude={"outputs", "claim"})
        return Words(report.claim, _failed({**kept, "outputs": []}, Reason.UPLOAD_FAILED, words))


def _read(store: ObjectStore, post: Post, name: str) -> bytes | None:
    try:
        return store.read(post.bucket, control_key(post.job, post.number, name), None, 0, _MOST_BYTES)
    except NotFound:
        return None


def _claim_of(body: bytes | None) -> Claim | None:
    """None where there is none, or none that a node wrote."""
    try:
        return None if body is None else Claim.model_validate_json(body)
    except ValidationError:
        return None


def _kept(store: ObjectStore, post: Post, report: _Report) -> dict[str, Any]:
    outputs = []
    for output in report.outputs:
        # What a failed job sent in parts stays unjoined: it is no result.
        if output.role in post.keys and not (output.multipart and report.status == "failed"):
            outputs.append(_stored(store, post, output))
    return {**report.model_dump(mode="json", exclude={"outputs", "claim"}), "outputs": outputs}


def _stored(store: ObjectStore, post: Post, output: _Output) -> dict[str, Any]:
    """The output with its version in the store.

    Raises:
        Conflict, NotFound: it is not there.
    """
    digests = [base64.b64decode(each) for each in output.md5s]
    key = post.keys[output.role]
    version_id: str | None = None
    if output.role in post.joined_later and not output.multipart:
        raise Conflict(f"{output.name} was not sent in parts.")
    if output.multipart:
        if output.role not in post.uploads:
            raise Conflict(f"{output.name} was sent in parts of an upload that was not begun.")
        parts = [Part(number, digest.hex(), 0) for number, digest in enumerate(digests, start=1)]
        if output.role not in post.joined_later:
            version_id = store.complete_multipart(post.bucket, key, post.uploads[output.role], parts).version_id
    elif len(digests) > 1:
        raise Conflict(f"{output.name} is in one piece and has {len(digests)} checksums.")
    else:
        version_id = output.version_id or store.head(post.bucket, key).version_id
    said = output.model_dump(mode="json", exclude={"multipart"})
    return {**said, "version_id": version_id, "etag": etag_of_parts(digests, multipart=output.multipart)}


def _failed(report: dict[str, Any], reason: Reason, words: str) -> dict[str, Any]:
    return {**report, "status": "failed", "reason": str(reason), "message": words}
