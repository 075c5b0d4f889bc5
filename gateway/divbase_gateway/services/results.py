"""What a job left behind: its log as far as it is known, downloads of its results, pinned to their versions, and
whether these are still there to answer an equal question."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from divbase_gateway.db import jobs as rows
from divbase_gateway.db.models import JobRow, ProjectRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import Conflict, NotFound, StoreUnavailable
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.ports import Audience, ObjectStore, PresignedRequest
from divbase_gateway.services.jobs import get_job
from divbase_gateway.services.plans import query_plan_of
from divbase_gateway.services.policy import JobPolicy
from divbase_gateway.services.retention import check_there

log = structlog.get_logger()

_LOG_BYTES = 1024 * 1024
_LOOKS = 16
_NAMED = 5


@dataclass(frozen=True)
class JobLogText:
    """The end of a job's output; `complete` once the job is over and its log was stored."""

    text: str
    complete: bool


@dataclass(frozen=True)
class ResultDownload:
    """A result file and the request that fetches it. `size` in bytes, `sha256` hex."""

    role: str
    key: str
    version_id: str
    size: int
    sha256: str
    etag: str
    request: PresignedRequest


def log_of(job: JobRow, store: ObjectStore) -> JobLogText:
    """The stored log (its last MiB), or the tail that the latest attempt told the gateway.

    Raises:
        StoreUnavailable: the log is stored and the store does not answer.
    """
    stored = next((each for each in job.results if each["role"] == "log"), None)
    if stored is not None:
        start = max(0, stored["size"] - _LOG_BYTES)
        text = store.read(job.project.bucket, stored["key"], stored["version_id"], start, _LOG_BYTES)
        return JobLogText(text.decode("utf-8", "replace"), complete=True)
    tails = [attempt.log_tail for attempt in job.attempts if attempt.log_tail]
    return JobLogText(tails[-1] if tails else "", complete=False)


def downloads_of(job: JobRow, store: ObjectStore, policy: JobPolicy) -> list[ResultDownload]:
    """Every file that the job left, with a request for laptops.

    Raises:
        Conflict: the job has no result, because it has not ended or did not succeed.
        ResultRemoved: it had one, and its time is over.
    """
    if job.state != JobState.SUCCEEDED:
        raise Conflict(
            f"Job {job.public_id} has no result: it is {job.state}." + (f" {job.message}" if job.message else ""),
            hint=f"`divbase jobs show {job.public_id}` says more.",
            details={"state": job.state},
        )
    check_there(job)
    return [_download(job, each, store, policy) for each in job.results]


def check_inputs(database: Database, store: ObjectStore, project: ProjectRow, public_id: str) -> None:
    """Make sure that a job which succeeded, and whose result was removed, can run again: every file version that it was
    planned on is still there, with its index. Of any other job nothing is asked here: it fails at its inputs by itself.

    Raises:
        Conflict: some are gone; it names them.
        NotFound: no such job.
        StoreUnavailable: nobody can tell; repeat the call.
    """
    with database.read() as session:
        job = get_job(session, project, public_id)
        if job.state != JobState.SUCCEEDED or job.results_removed_at is None:
            return
        plan = query_plan_of(job)
    wanted = [(each.key, each.version_id) for each in plan.inputs]
    wanted += [(each.index.key, each.index.version_id) for each in plan.inputs]
    with ThreadPoolExecutor(min(_LOOKS, len(wanted))) as looks:
        there = list(looks.map(lambda each: _has(store, project.bucket, *each), wanted))
    gone = [f"{key} (version {version})" for (key, version), found in zip(wanted, there, strict=True) if not found]
    if gone:
        more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
        raise Conflict(
            f"Job {public_id} cannot run again on what it ran on: {', '.join(gone[:_NAMED])}{more} "
            f"{'is' if len(gone) == 1 else 'are'} not in the bucket any more.",
            hint="`divbase query run` asks the question of the files as they are now.",
            details={"job": public_id, "missing": gone},
        )


def _has(store: ObjectStore, bucket: str, key: str, version_id: str) -> bool:
    try:
        store.head(bucket, key, version_id)
    except NotFound:
        return False
    return True


def find_answer(database: Database, store: ObjectStore, project: ProjectRow, digest: str) -> JobRow | None:
    """The newest job of the project that succeeded with a plan of this digest and whose files are all in the store.

    Every file is looked at by its version, all at once; no transaction is open meanwhile. None: the question has to be
    run, also where the store does not answer, because accepting a job never depends on it.
    """
    with database.read() as session:
        job = rows.find_succeeded(session, project.id, digest)
    if job is None or not any(each["role"] == "result" for each in job.results):
        return None
    with ThreadPoolExecutor(len(job.results)) as looks:
        there = list(looks.map(partial(_is_stored, store, project.bucket), job.results))
    return job if all(there) else None


def _is_stored(store: ObjectStore, bucket: str, result: dict[str, Any]) -> bool:
    try:
        info = store.head(bucket, result["key"], result["version_id"])
    except NotFound:
        return False
    except StoreUnavailable as error:
        log.warning("result.not_verified", key=result["key"], error=error.message)
        return False
    return (info.size, info.etag) == (result["size"], result.get("etag"))


def _download(job: JobRow, result: dict[str, object], store: ObjectStore, policy: JobPolicy) -> ResultDownload:
    key, version_id = str(result["key"]), str(result["version_id"])
    request = store.presign_get(
        job.project.bucket, key, version_id, Audience.LAPTOP, policy.url_expiry, key.rpartition("/")[2]
    )
    return ResultDownload(
        role=str(result["role"]),
        key=key,
        version_id=version_id,
        size=int(str(result["size"])),
        sha256=str(result["sha256"]),
        etag=str(result.get("etag", "")),
        request=request,
    )
