"""The gateway's side of the node protocol (docs/node-protocol.md): a running attempt claims its work, gets its URLs,
says how far it is, announces its outputs and reports its end. What the report is worth is judged elsewhere."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from divbase_gateway.db import jobs as rows
from divbase_gateway.db.models import AttemptRow, JobRow
from divbase_gateway.domain.checksums import etag_of_parts
from divbase_gateway.domain.errors import Conflict, InvalidRequest, NotFound, Unauthenticated
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.domain.plans import part_to_dict
from divbase_gateway.domain.queries import OutputFormat, PlannedInput
from divbase_gateway.domain.repairs import KIND as REPAIR
from divbase_gateway.domain.shards import KIND as SHARD
from divbase_gateway.domain.sidecars import KIND as SIDECAR
from divbase_gateway.domain.sidecars import sidecar_key
from divbase_gateway.ports import ARRAY_MARK, Audience, ObjectStore, Part, PresignedRequest
from divbase_gateway.services.jobs import query_of, set_state
from divbase_gateway.services.plans import file_plan_of, query_plan_of
from divbase_gateway.services.policy import JobPolicy, NodeCache

LOG_TAIL_CHARS = 16 * 1024
_JOB_ID, _TASK_ID = re.compile(r"[0-9]+"), re.compile(r"[0-9]+_[0-9]+")

MARK = "attempt"
"""Metadata of every object that a job sends through the gateway: which attempt of which job it is."""


@dataclass(frozen=True)
class NodeInput:
    """An input of the job as the node needs to know it, with requests that were signed for the node just now.

    Attributes:
        key: of the file of the project, whatever is read of it.
        copy_key: of its BCF copy, where that is read in its place; size, checksums and the rest are of the copy then.
        index: None where the node makes one itself: for jobs of one whole file, and for a part.
        part: what to read of it, as docs/node-protocol.md has it; None for the whole.
        begins: virtual offsets of records that must not have POS 0.
    """

    number: int
    key: str
    format: str
    size: int
    etag: str
    sha256: str | None
    request: PresignedRequest
    index: NodeIndex | None
    samples: list[str] | None
    part: dict[str, Any] | None = None
    begins: tuple[int, ...] = ()
    copy_key: str | None = None


@dataclass(frozen=True)
class NodeIndex:
    kind: str
    size: int
    etag: str
    request: PresignedRequest


@dataclass(frozen=True)
class Manifest:
    job: str
    attempt: int
    kind: str
    inputs: list[NodeInput]
    part_size: int
    retry_for_s: int
    provenance: dict[str, Any]
    cache: NodeCache | None = None


@dataclass(frozen=True)
class OutputUpload:
    """Where an announced output goes: a multipart upload's id (None for one PUT) and its requests, from part 1."""

    upload: str | None
    requests: list[PresignedRequest]


def authenticate(session: Session, attempt_id: str, token: str) -> AttemptRow:
    """The live attempt that this token belongs to, with its job, project and user.

    Raises:
        Unauthenticated: there is no such attempt, the token is not its own, or the attempt is over.
    """
    job, _, number = attempt_id.rpartition(".")
    attempt = rows.find_attempt(session, job, int(number)) if number.isdecimal() and len(number) < 6 else None
    given = hashlib.sha256(token.encode()).hexdigest()
    if attempt is None or not hmac.compare_digest(given, attempt.token_sha256):
        raise Unauthenticated("This token is not the token of such an attempt.")
    if _is_dead(attempt):
        raise Unauthenticated(f"Attempt {attempt_id} is over; its token is no longer good for anything.")
    return attempt


def live_attempt(session: Session, attempt: AttemptRow) -> AttemptRow:
    """The attempt in this session, its job's row held until the transaction ends.

    Raises:
        Unauthenticated: it ended since it was authenticated.
    """
    job = rows.lock_job(session, attempt.job_id)
    mine = next((each for each in job.attempts if each.number == attempt.number), None) if job else None
    if mine is None or _is_dead(mine):
        raise Unauthenticated("The attempt is over; its token is no longer good for anything.")
    return mine


def _is_dead(attempt: AttemptRow) -> bool:
    job = attempt.job
    return attempt.outcome is not None or job.attempt != attempt.number or JobState(job.state).is_end


def claim(attempt: AttemptRow, claimant: str, host: str, slurm_job_id: str | None, now: datetime) -> None:
    """Give the attempt to the first who asks; asking again with the same `claimant` is no second claim.

    Args:
        slurm_job_id: the claimant's own word on which run it is; None outside SLURM.

    Raises:
        Conflict: somebody else has it.
    """
    if attempt.claimant is not None and not hmac.compare_digest(attempt.claimant, claimant):
        raise Conflict("Another run of this job has claimed the attempt; do nothing.", details={"claimed": True})
    if attempt.claimant is None:
        attempt.claimant, attempt.claimed_at, attempt.node = claimant, now, host
        _follow(attempt, slurm_job_id)
        attempt.started_at = attempt.started_at or now
        attempt.job.started_at = attempt.job.started_at or now
    attempt.job.observed_at = now
    # A job whose submission is still unanswered stays as it is: its id at the scheduler is found by its name, later.
    if attempt.job.state == JobState.QUEUED:
        set_state(attempt.job, JobState.RUNNING, now)


def note_claim(attempt: AttemptRow, claimant: str, host: str, slurm_job_id: str | None) -> None:
    """Keep who had the attempt, where that is read from the store after its end; when it began, the scheduler says."""
    if attempt.claimant is None:
        attempt.claimant, attempt.node = claimant, host
        _follow(attempt, slurm_job_id)


def _follow(attempt: AttemptRow, slurm_job_id: str | None) -> None:
    """The run that claimed is the one that counts, so its id is the one to look at.

    sbatch may submit twice by itself, and we may have been told of the other copy, or of none yet. Ids that are neither
    numbers nor tasks of an array (a part of a heterogeneous job), or not of the same kind, cannot be compared, and
    change nothing.
    """
    told, known = slurm_job_id, attempt.slurm_job_id
    kind = ARRAY_MARK in attempt.slurm_name
    if told == known or not _is_of_kind(told, kind) or (known is not None and not _is_of_kind(known, kind)):
        return
    attempt.slurm_job_id = told
    attempt.missing_since = attempt.cancel_sent_at = None


def _is_of_kind(slurm_job_id: str | None, is_task: bool) -> bool:
    form = _TASK_ID if is_task else _JOB_ID
    return slurm_job_id is not None and form.fullmatch(slurm_job_id) is not None


def manifest_of(attempt: AttemptRow, store: ObjectStore, policy: JobPolicy) -> Manifest:
    """All that the node needs, with URLs signed for it now. Signing asks the store nothing."""
    job = attempt.job
    return Manifest(
        job=job.public_id,
        attempt=attempt.number,
        kind=job.kind,
        inputs=signed_inputs(job, store, policy.url_expiry),
        part_size=policy.part_size,
        retry_for_s=policy.retry_for_s,
        provenance=provenance_of(job),
        cache=cache_for(job, policy),
    )


def cache_for(job: JobRow, policy: JobPolicy) -> NodeCache | None:
    """Where the job may keep what it fetches; what shards made is read once, and only by the job that joins it."""
    return None if job.gathers is not None else policy.cache


def signed_inputs(job: JobRow, store: ObjectStore, expires: timedelta) -> list[NodeInput]:
    """The job's inputs with fresh requests that work for so long."""

    def signed(key: str, version_id: str) -> PresignedRequest:
        return store.presign_get(job.project.bucket, key, version_id, Audience.NODE, expires)

    if job.kind == "query" and job.plan.get("spread") and job.gathers is None:
        raise ValueError(f"job {job.public_id} joins what its shards made, and none of them has been settled")
    if job.gathers is not None:
        return [_shard_input(each, signed(each["key"], each["version_id"])) for each in job.gathers]
    if job.kind not in ("query", SHARD):
        plan = file_plan_of(job)
        request = signed(plan.key, plan.version_id)
        return [NodeInput(1, plan.key, plan.format, plan.size, plan.etag, plan.sha256, request, None, None)]
    return [_signed_input(each, signed) for each in query_plan_of(job).inputs]


def _signed_input(planned: PlannedInput, signed: Callable[[str, str], PresignedRequest]) -> NodeInput:
    read = planned.source
    index = None
    if read.part is None:
        request = signed(read.index.key, read.index.version_id)
        index = NodeIndex(read.index.kind, read.index.size, read.index.etag, request)
    return NodeInput(
        number=planned.number,
        key=planned.key,
        format=planned.read_format,
        size=read.size,
        etag=read.etag,
        sha256=read.sha256,
        request=signed(read.key, read.version_id),
        index=index,
        samples=None if planned.samples is None else list(planned.samples),
        part=None if read.part is None else part_to_dict(read.part),
        begins=read.begins,
        copy_key=None if planned.copy is None else planned.copy.key,
    )


def _shard_input(gathered: dict[str, Any], request: PresignedRequest) -> NodeInput:
    """What a shard's job made, as an input of the job that joins it: read from end to end, so without an index."""
    number, key, size, etag, sha256 = (gathered[name] for name in ("number", "key", "size", "etag", "sha256"))
    return NodeInput(number, key, OutputFormat.BCF.value, size, etag, sha256, request, index=None, samples=None)


def provenance_of(job: JobRow) -> dict[str, Any]:
    """What the node writes into the result's record beside its own facts: of parts the bytes, not their index.

    Of a query that is spread, how each shard was made as well.
    """
    shared = {"shards": job.plan.get("shards", 1), "cores": job.cores} if job.kind in ("query", SHARD) else {}
    return {
        **shared,
        **({} if job.gathers is None else {"gathers": job.gathers}),
        "project": job.project.name,
        "kind": job.kind,
        "query": job.query,
        "plan_digest": job.plan_digest,
        "inputs": [_without_index(each) for each in job.plan.get("inputs") or [job.plan]],
    }


def _without_index(planned: dict[str, Any]) -> dict[str, Any]:
    part, copy = planned.get("part"), planned.get("copy")
    shown = planned if part is None else {**planned, "part": {"spans": part["spans"]}}
    return shown if copy is None else {**shown, "copy": _without_index(copy)}


def record_progress(
    attempt: AttemptRow, stage: str, done: int, total: int, log_tail: str | None, now: datetime
) -> None:
    """Note how far the attempt is, in bytes of its stage."""
    job = attempt.job
    job.progress_stage, job.progress_done, job.progress_total, job.observed_at = stage, done, total, now
    if log_tail is not None:
        attempt.log_tail = _storable(log_tail)[-LOG_TAIL_CHARS:]


def _storable(text: str) -> str:
    """PostgreSQL keeps no NUL in text, and a job's output may have some."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


# --- outputs -----------------------------------------------------------------------------------------------------


def output_key(job: JobRow, role: str) -> str:
    """Where an output of this role goes in the project's bucket.

    Raises:
        InvalidRequest: a job of this kind has no such output.
    """
    keys = output_keys(job)
    if role not in keys:
        raise InvalidRequest(f"A job of kind {job.kind} has no output {role!r}; it has {', '.join(keys)}.")
    return keys[role]


def shard_folder(job: str) -> str:
    """Before the keys of all that the shards of a query make, by its public id; no listing has them."""
    return f".divbase/shards/{job}/"


def output_keys(job: JobRow) -> dict[str, str]:
    """Role -> key, of every output that a job of this kind may have."""
    if job.kind == SHARD:
        own = f"{shard_folder(query_of(job))}{job.task}"
        return {"result": f"{own}.bcf", "index": f"{own}.bcf.csi", "provenance": f"{own}.json", "log": f"{own}.log"}
    folder = f"results/{job.public_id}"
    log = {"log": f"{folder}/job.log"}
    if job.kind == "index":
        return {"index": str(job.plan["output_key"]), **log}
    provenance = {"provenance": f"{folder}/provenance.json"}
    if job.kind == SIDECAR:
        key = sidecar_key(str(job.plan["key"]), job.public_id)
        return {"result": key, "index": f"{key}.csi", **provenance, **log}
    if job.kind == REPAIR:
        key = str(job.plan["key"])
        return {"result": key, "index": f".divbase/indexes/{key}/{job.public_id}.csi", **provenance, **log}
    result = f"{folder}/{job.plan['output_name']}"
    index = {} if OutputFormat(job.plan["output"]).is_text else {"index": f"{result}.csi"}
    return {"result": result, **index, **provenance, **log}


def log_key(job: JobRow, number: int) -> str:
    """Where the log of attempt `number` goes that could not send it by itself."""
    if job.kind == SHARD:
        return f"{shard_folder(query_of(job))}{job.task}.{number}.log"
    return f"results/{job.public_id}/job.{number}.log"


def is_joined_later(job: JobRow, role: str) -> bool:
    """Whether an output is sent in parts, however small, that are joined only when its job has otherwise succeeded.

    So is a repaired file: its key is that of the file, where nothing may appear that is not wanted there.
    """
    return job.kind == REPAIR and role == "result"


def mark_of(job: JobRow, number: int) -> str:
    """What marks the objects of attempt `number` of a job."""
    return f"{job.public_id}.{number}"


def announce_output(
    attempt: AttemptRow,
    store: ObjectStore,
    policy: JobPolicy,
    *,
    name: str,
    role: str,
    size: int,
    sha256: str,
    md5s: list[str],
) -> tuple[OutputUpload, list[Any]]:
    """Where to put an output. Announcing the same again gives fresh requests for the same upload, unless that one was
    refused: its parts are joined already, or will never be.

    Returns:
        the requests, and the attempt's list of announced outputs as it is to be stored.
    """
    job = attempt.job
    bucket, key = job.project.bucket, output_key(job, role)
    others = [each for each in attempt.uploads if each["name"] != name]
    known = next((each for each in attempt.uploads if _is_same(each, name, sha256)), None)
    metadata = {"sha256": sha256, MARK: mark_of(job, attempt.number)}
    upload: str | None = None
    if len(md5s) == 1 and not is_joined_later(job, role):
        requests = [store.presign_put(bucket, key, Audience.NODE, policy.url_expiry, md5s[0], metadata)]
    else:
        upload = (known or {}).get("upload") or store.start_multipart(bucket, key, metadata)
        requests = [
            store.presign_part(bucket, key, upload, number, Audience.NODE, policy.url_expiry, md5)
            for number, md5 in enumerate(md5s, start=1)
        ]
    for each in attempt.uploads:
        if each["name"] == name and each["upload"] not in (None, upload):  # nobody would ever end it
            store.abort_multipart(bucket, key, each["upload"])
    output = {"name": name, "role": role, "size": size, "sha256": sha256, "md5s": md5s, "upload": upload}
    return OutputUpload(upload, requests), [*others, output]


def _is_same(announced: dict[str, Any], name: str, sha256: str) -> bool:
    return announced["name"] == name and announced["sha256"] == sha256 and not announced.get("refused")


def refuse_output(attempt: AttemptRow, name: str, upload: str | None) -> None:
    """Note that what this upload brought is not what was announced: the next announcement begins a new one."""
    attempt.uploads = [
        {**each, "refused": True} if (each["name"], each["upload"]) == (name, upload) else each
        for each in attempt.uploads
    ]


@dataclass(frozen=True)
class AnnouncedOutput:
    """An output that is to be completed: where it is and what it must be. `part_etags`: of its parts, in order."""

    bucket: str
    key: str
    name: str
    size: int
    etag: str
    sha256: str
    upload: str | None
    part_etags: tuple[str, ...] = ()
    is_joined_later: bool = False


def announced_output(attempt: AttemptRow, name: str) -> AnnouncedOutput:
    """What the attempt announced under this name.

    Raises:
        NotFound: it announced nothing of the name.
    """
    for each in attempt.uploads:
        if each["name"] == name:
            digests = [base64.b64decode(md5) for md5 in each["md5s"]]
            return AnnouncedOutput(
                bucket=attempt.job.project.bucket,
                key=output_key(attempt.job, each["role"]),
                name=name,
                size=each["size"],
                etag=etag_of_parts(digests, multipart=each["upload"] is not None),
                sha256=each["sha256"],
                upload=each["upload"],
                part_etags=tuple(digest.hex() for digest in digests),
                is_joined_later=is_joined_later(attempt.job, each["role"]),
            )
    raise NotFound(f"The attempt has not announced an output {name!r}.")


def complete_output(output: AnnouncedOutput, parts: list[Part], store: ObjectStore) -> tuple[str | None, str]:
    """Join the parts of a multipart output and look at the object: (version id, ETag).

    Of one that is joined later the parts are looked at; it has no version yet.

    Raises:
        Conflict: what the store has is not what was announced; send it again.
    """
    try:
        if output.is_joined_later and output.upload is not None:
            _check_parts(output, store.list_parts(output.bucket, output.key, output.upload))
            return None, output.etag
        if output.upload is not None:
            store.complete_multipart(output.bucket, output.key, output.upload, parts)
        info = store.head(output.bucket, output.key)
    except NotFound as error:
        raise Conflict(f"The store does not have {output.name}: {error.message}", hint="Send it again.") from error
    if info.size != output.size or info.etag != output.etag:
        raise Conflict(
            f"The store has {info.size} bytes with ETag {info.etag} of {output.name}, not the {output.size} bytes with "
            f"ETag {output.etag} that were announced.",
            hint="Send it again.",
        )
    return info.version_id, info.etag


def _check_parts(output: AnnouncedOutput, there: list[Part]) -> None:
    expected, found = list(output.part_etags), [part.etag for part in there]
    size = sum(part.size for part in there)
    if (expected, output.size) != (found, size):
        raise Conflict(
            f"The store has {len(found)} parts with {size} bytes of {output.name}, and not the {len(expected)} parts "
            f"with {output.size} bytes that were announced.",
            hint="Send it again.",
        )


def record_report(attempt: AttemptRow, report: Mapping[str, Any], now: datetime) -> None:
    """Keep what the job says of its end. The first report counts; a repeated one is a lost answer asked for again.

    Raises:
        InvalidRequest: it names an output that a job of this kind does not have.
    """
    if attempt.report is not None:
        return
    for output in report.get("outputs") or []:
        output_key(attempt.job, output["role"])
    message = report.get("message")
    kept = {**report, "message": None if message is None else _storable(message)}
    attempt.report, attempt.reported_at = kept, now
    attempt.job.observed_at = now
    tail = report.get("log_tail")
    if isinstance(tail, str):
        attempt.log_tail = _storable(tail)[-LOG_TAIL_CHARS:]
    if attempt.job.state in (JobState.QUEUED, JobState.RUNNING):
        set_state(attempt.job, JobState.FINALIZING, now)
