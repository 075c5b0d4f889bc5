"""BCF copies of files, where a project wants them: jobs are accepted, what they wrote is held against the file, and
what nobody wants any more is removed. Each step can be repeated; the store is asked outside of transactions."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.orm import Session

from divbase_gateway.db import files as file_rows
from divbase_gateway.db import sidecars as rows
from divbase_gateway.db.models import SidecarRow, UserRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import DivBaseError, NotFound, StoreUnavailable
from divbase_gateway.domain.files import IndexKind, IndexRef
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.domain.sidecars import GRACE, MOST_OPEN, SidecarState, plan_sidecar, sidecar_key
from divbase_gateway.ports import ObjectStore
from divbase_gateway.services import catalogue, jobs
from divbase_gateway.services.copies import Copy, copies_of
from divbase_gateway.services.rounds import Round

log = structlog.get_logger()


@dataclass(frozen=True)
class SidecarView:
    """What people see of the copy of a version. `size` in bytes, with its index; None unless it is READY."""

    state: SidecarState
    size: int | None
    reason: str | None
    job: str


def look_at(session: Session, version_row_id: int) -> SidecarView | None:
    """The copy of a version; None where nobody has tried to make one, or it is being removed."""
    row = rows.get_of_version(session, version_row_id)
    if row is None or row.state == SidecarState.GOING:
        return None
    size = (row.size or 0) + (row.index_size or 0) if row.state == SidecarState.READY else None
    return SidecarView(SidecarState(row.state), size, row.reason, row.job)


def look_after(database: Database, store: ObjectStore, limit: int, now: datetime, *, sweep: bool) -> None:
    """Do what there is to do about copies, at most `limit` of each kind: settle those whose jobs have ended.

    Args:
        sweep: also look for versions that want one, and for copies that nobody wants any more.

    Raises:
        StoreUnavailable: the rest waits for the next time.
    """
    with database.read() as session:
        if not rows.is_there_any(session):
            return
    turn = Round()
    for without in turn.passes():
        with database.read() as session:
            ended = rows.find_ended(session, limit, without)
        for each in ended:
            bucket = each.job.project.bucket
            if not turn.skips(bucket):
                with turn.at(bucket):
                    _settle(database, store, each, now)
    if sweep:
        accept_wanted(database, now)
        with database.write() as session:
            rows.mark_wanted_again(session, now)
            rows.mark_unwanted(session, now)
        remove_unwanted(database, store, turn, limit, now)
    turn.end()


# --- jobs ------------------------------------------------------------------------------------------------------------


def accept_wanted(database: Database, now: datetime) -> int:
    """Accept a job for every version that is to have a copy, once, as long as there is room for such jobs.

    Returns: how many.
    """
    with database.read() as session:
        if not rows.find_wanted(session, 1):
            return 0
    with database.write() as session:
        room = MOST_OPEN - rows.count_open(session)
        wanted = rows.find_wanted(session, room) if room > 0 else []
        return sum(_accept(session, each, now) for each in wanted)


def _accept(session: Session, wanted: rows.Wanted, now: datetime) -> bool:
    project, file, version = wanted
    uploader = session.get(UserRow, version.uploaded_by_id) if version.uploaded_by_id is not None else None
    owner = uploader or rows.find_owner(session, project.id)
    if owner is None:
        log.warning("sidecar.without_owner", project=project.name, key=file.key)
        return False
    plan = plan_sidecar(file_rows.catalogued(file.key, version))
    job = jobs.accept_sidecar_job(session, project, owner, plan, now)
    session.add(
        SidecarRow(
            project_id=project.id,
            version_row_id=version.id,
            state=SidecarState.WRITING,
            state_since=now,
            job=job.public_id,
            key=sidecar_key(file.key, job.public_id),
        )
    )
    session.flush()
    log.info("sidecar.accepted", job=job.public_id, key=file.key, version_id=version.version_id)
    return True


# --- what they wrote -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Written:
    """A copy that can be used: both objects, as the job reported them and the catalogue sees them."""

    copy: dict[str, Any]
    index: IndexRef
    index_sha256: str
    indexed: catalogue.Indexed


def _settle(database: Database, store: ObjectStore, ended: rows.Ended, now: datetime) -> None:
    """Let queries read what an ended job has written, or keep the reason why they cannot."""
    job, reason, written = ended.job, ended.job.message or f"Job {ended.job.public_id} was {ended.job.state}.", None
    if job.state == JobState.SUCCEEDED:
        try:
            written = _inspect(store, ended)
        except StoreUnavailable:
            raise
        except DivBaseError as error:
            reason = f"What job {job.public_id} wrote is not used: {error.message}"
    kept = [] if written is None else [written.copy["version_id"], written.index.version_id]
    if not _clear(database, store, job.project.bucket, ended.sidecar, kept):
        return
    with database.write() as session:
        row = _unchanged(session, ended.sidecar)
        if row is None:
            return
        _record(session, row, written, reason, now)
    if written is None:
        log.warning("sidecar.none", job=job.public_id, key=ended.sidecar.key, reason=reason)
    else:
        log.info("sidecar.ready", job=job.public_id, key=ended.sidecar.key, size=written.copy["size"])


def _inspect(store: ObjectStore, ended: rows.Ended) -> _Written:
    job = ended.job
    results = {each["role"]: each for each in job.results}
    if ended.version is None or not {"result", "index"} <= results.keys():
        raise NotFound("the version that it is of, or a part of it, is gone.")
    bucket, copy, index = job.project.bucket, results["result"], results["index"]
    info = store.head(bucket, copy["key"], copy["version_id"])
    found = store.head(bucket, index["key"], index["version_id"])
    ref = IndexRef(found.key, found.version_id, IndexKind.CSI, found.size, found.etag)
    file = file_rows.catalogued(ended.version.file.key, ended.version)
    indexed = catalogue.attach_copy(store, bucket, file, info, ref)
    return _Written(copy, ref, index["sha256"], indexed)


def _record(session: Session, row: SidecarRow, written: _Written | None, reason: str, now: datetime) -> None:
    row.state_since = now
    if written is None:
        row.state, row.reason = SidecarState.NONE, reason
        return
    seen, index = written.indexed.file, written.index
    row.state, row.reason = SidecarState.READY, None
    row.version_id, row.size, row.etag, row.sha256 = seen.version_id, seen.size, seen.etag, written.copy["sha256"]
    row.index_version_id, row.index_size, row.index_etag = index.version_id, index.size, index.etag
    row.index_sha256, row.data_begin = written.index_sha256, seen.data_begin
    rows.replace_maps(session, row.id, written.indexed.maps)


# --- removal ---------------------------------------------------------------------------------------------------------


def remove_unwanted(database: Database, store: ObjectStore, turn: Round, limit: int, now: datetime) -> None:
    """Remove copies that no plan has read for a while and no job that has not ended was planned on.

    Raises:
        StoreUnavailable: it does not answer; the rest waits for the next time.
    """
    with database.read() as session:
        going = rows.find_going(session, now - GRACE, limit)
        projects = {row.project_id for row in going}
        in_use = {copy for project_id in projects for copy in _in_use(session, project_id)}
    for row in going:
        bucket = row.project.bucket
        if (row.key, row.version_id) not in in_use and not turn.skips(bucket):
            with turn.at(bucket):
                _remove(database, store, row)


def _in_use(session: Session, project_id: int) -> set[Copy]:
    return {copy for plan in rows.plans_of_open_queries(session, project_id) for copy in copies_of(plan).values()}


def _remove(database: Database, store: ObjectStore, going: SidecarRow) -> None:
    """Nobody wants it again from the first step on, and a kill after any finds the row."""
    with database.write() as session:
        row = rows.lock_sidecar(session, going.id)
        if row is None or row.state != SidecarState.GOING:
            return
        row.data_begin = None
    if not _clear(database, store, going.project.bucket, going, []):
        return
    with database.write() as session:
        row = rows.lock_sidecar(session, going.id)
        if row is not None:
            session.delete(row)
    log.info("sidecar.removed", key=going.key, version_id=going.version_id)


def _clear(database: Database, store: ObjectStore, bucket: str, seen: SidecarRow, kept: list[str]) -> bool:
    """Remove every version of a copy and its index but these; attempts that came to nothing left some.

    Returns:
        False: another gateway was faster while the store kept this one waiting, and what was listed may be needed.
    """
    names = (seen.key, f"{seen.key}.csi")
    try:
        found = [each for each in store.list_versions(bucket, seen.key) if each.key in names]
    except NotFound:  # the bucket, and with it all of them
        return True
    loose = [each for each in found if each.version_id not in kept]
    with database.write() as session:
        if loose and _unchanged(session, seen) is None:
            log.warning("sidecar.cleared_by_another", key=seen.key)
            return False
    for entry in loose:
        with suppress(NotFound):
            store.delete_version(bucket, entry.key, entry.version_id)
    return True


def _unchanged(session: Session, seen: SidecarRow) -> SidecarRow | None:
    """The row, held; None where it has gone on since it was read."""
    row = rows.lock_sidecar(session, seen.id)
    if row is None or (row.state, row.state_since, row.job) != (seen.state, seen.state_since, seen.job):
        return None
    return row
