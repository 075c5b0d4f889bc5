"""Routes that jobs call from their nodes, with their token: the gateway's side of docs/node-protocol.md."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from divbase_client import models
from fastapi import Depends
from pydantic import BaseModel, ConfigDict, Field

from divbase_gateway.api.auth import Access, require
from divbase_gateway.api.deps import TheGateway, WriteSession
from divbase_gateway.api.presigned import presigned_of
from divbase_gateway.api.routes import new_router
from divbase_gateway.db.models import AttemptRow
from divbase_gateway.db.session import after_commit
from divbase_gateway.domain.errors import Conflict
from divbase_gateway.ports import Part
from divbase_gateway.services import attempts

router = new_router("attempts", "/attempts/{attempt}")

Attempt = Annotated[AttemptRow, Depends(require(Access.JOB_TOKEN))]
_SHA256 = r"^[0-9a-f]{64}$"
_MD5_BASE64 = r"^[A-Za-z0-9+/]{22}==$"


class FromNode(BaseModel):
    """A node helper that is newer than the gateway may say more than we know of."""

    model_config = ConfigDict(extra="ignore")


class Claim(FromNode):
    claimant: str = Field(min_length=8, max_length=64)
    host: str = Field(max_length=255)
    slurm_job_id: str | None = Field(default=None, max_length=64)
    python: str | None = None
    bcftools: str | None = None


class NodeIndex(models.Answer):
    kind: str
    size: int
    etag: str
    request: models.Presigned


class FilePart(models.Answer):
    """Spans are start, length, first and end; contigs are name, number and bins with their chunks."""

    spans: list[tuple[int, int, int, int]]
    min_shift: int
    depth: int
    contigs: list[tuple[str, int, list[tuple[int, list[int]]]]]


class NodeInput(models.Answer):
    number: int
    key: str
    format: str
    size: int
    etag: str
    sha256: str | None
    request: models.Presigned
    index: NodeIndex | None
    samples: list[str] | None
    part: FilePart | None
    begins: list[int]
    copy_key: str | None


class NodeCache(models.Answer):
    folder: str
    bytes: int


class Manifest(models.Answer):
    job: str
    attempt: int
    kind: str
    inputs: list[NodeInput]
    part_size: int
    retry_for_s: int
    provenance: dict[str, Any]
    cache: NodeCache | None


class FreshUrl(models.Answer):
    number: int
    request: models.Presigned
    index_request: models.Presigned | None


class FreshUrls(models.Answer):
    inputs: list[FreshUrl]


class ProgressReport(FromNode):
    stage: Literal["staging", "running", "pushing"]
    done: int = Field(ge=0)
    total: int = Field(ge=0)
    log_tail: str | None = Field(default=None, max_length=64 * 1024)


class Output(FromNode):
    name: str = Field(min_length=1, max_length=200)
    role: Literal["result", "index", "provenance", "log"]
    size: int = Field(ge=0)
    sha256: str = Field(pattern=_SHA256)
    md5s: list[Annotated[str, Field(pattern=_MD5_BASE64)]] = Field(min_length=1, max_length=10_000)


class NumberedRequest(models.Answer):
    number: int
    request: models.Presigned


class OutputUpload(models.Answer):
    upload: str | None
    requests: list[NumberedRequest]


class CompletedPart(FromNode):
    number: int = Field(ge=1, le=10_000)
    etag: str


class CompleteOutput(FromNode):
    name: str
    upload: str | None = None
    parts: list[CompletedPart] = Field(default_factory=list)


class CompletedOutput(models.Answer):
    version_id: str | None = Field(description="None where its parts are joined when the job has ended")
    etag: str


class ReportedOutput(FromNode):
    name: str
    role: Literal["result", "index", "provenance", "log"]
    size: int
    sha256: str = Field(pattern=_SHA256)
    version_id: str | None
    etag: str


class EndReport(FromNode):
    status: Literal["succeeded", "failed"]
    reason: str | None = None
    message: str | None = Field(default=None, max_length=64 * 1024)
    outputs: list[ReportedOutput] = Field(default_factory=list)
    counts: dict[str, int | None] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)
    tools: dict[str, str | None] = Field(default_factory=dict)
    log_tail: str | None = Field(default=None, max_length=256 * 1024)


class Done(models.Answer):
    """There is nothing to say but that it was noted."""


@router.post("/claim")
def claim(body: Claim, attempt: Attempt, session: WriteSession, gateway: TheGateway) -> Manifest:
    """Take the attempt. Only one run of the job ever gets it; asking again as the same one is no second claim."""
    mine = attempts.live_attempt(session, attempt)
    attempts.claim(mine, body.claimant, body.host, body.slurm_job_id, gateway.clock.now())
    return Manifest.model_validate(attempts.manifest_of(mine, gateway.store, gateway.policy))


@router.post("/urls")
def fresh_urls(attempt: Attempt, gateway: TheGateway) -> FreshUrls:
    """The inputs' requests, signed anew."""
    return FreshUrls(
        inputs=[
            FreshUrl(
                number=each.number,
                request=presigned_of(each.request),
                index_request=presigned_of(each.index.request) if each.index else None,
            )
            for each in attempts.signed_inputs(attempt.job, gateway.store, gateway.policy.url_expiry)
        ]
    )


@router.post("/progress")
def report_progress(body: ProgressReport, attempt: Attempt, session: WriteSession, gateway: TheGateway) -> Done:
    """Note how far the job is."""
    mine = attempts.live_attempt(session, attempt)
    attempts.record_progress(mine, body.stage, body.done, body.total, body.log_tail, gateway.clock.now())
    return Done()


@router.post("/outputs")
def announce_output(body: Output, attempt: Attempt, gateway: TheGateway) -> OutputUpload:
    """Where to put an output. The store is asked before the database is locked."""
    upload, announced = attempts.announce_output(
        attempt,
        gateway.store,
        gateway.policy,
        name=body.name,
        role=body.role,
        size=body.size,
        sha256=body.sha256,
        md5s=list(body.md5s),
    )
    with gateway.sessions.write() as session:
        attempts.live_attempt(session, attempt).uploads = announced
    return OutputUpload(
        upload=upload.upload,
        requests=[
            NumberedRequest(number=number, request=presigned_of(request))
            for number, request in enumerate(upload.requests, start=1)
        ],
    )


@router.post("/outputs/complete")
def complete_output(body: CompleteOutput, attempt: Attempt, gateway: TheGateway) -> CompletedOutput:
    """Say that an output was sent; the gateway looks whether it is there as it was announced."""
    output = attempts.announced_output(attempt, body.name)
    parts = [Part(part.number, part.etag, 0) for part in body.parts]
    try:
        version_id, etag = attempts.complete_output(output, parts, gateway.store)
    except Conflict:
        with gateway.sessions.write() as session:
            attempts.refuse_output(attempts.live_attempt(session, attempt), output.name, output.upload)
        raise
    return CompletedOutput(version_id=version_id, etag=etag)


@router.post("/finish")
def finish(body: EndReport, attempt: Attempt, session: WriteSession, gateway: TheGateway) -> Done:
    """Report the end. Whether the job has succeeded is judged when scheduler and store have said the same."""
    mine = attempts.live_attempt(session, attempt)
    attempts.record_report(mine, body.model_dump(mode="json"), gateway.clock.now())
    after_commit(session, gateway.wake)
    return Done()
