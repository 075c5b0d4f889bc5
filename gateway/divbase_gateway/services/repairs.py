"""Asking for a repair: what is wrong with a file is looked at, and the job that mends it is accepted.

The look reads the store and is made outside of transactions. What becomes of the job's new version is in `replacement`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from divbase_gateway.db import files as file_rows
from divbase_gateway.db import jobs as rows
from divbase_gateway.db.models import FileVersionRow, JobRow, ProjectRow, UserRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import Conflict
from divbase_gateway.domain.files import CataloguedFile, FileFormat, FileState
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.domain.repairs import Condition, IndexEnd, Mend, choose_mend, plan_repair
from divbase_gateway.ports import ObjectInfo, ObjectStore
from divbase_gateway.services import catalogue, jobs
from divbase_gateway.services.files import get_file
from divbase_gateway.services.policy import JobPolicy


@dataclass(frozen=True)
class Examined:
    """A file that was looked at. `open_job`: the public id of a job that is at work on this version already."""

    key: str
    version_id: str
    mend: Mend | None
    open_job: str | None = None


@dataclass(frozen=True)
class Accepted:
    """The job that mends the file; `is_new` is False where it was there before."""

    job: JobRow
    is_new: bool


def examine(database: Database, store: ObjectStore, project: ProjectRow, key: str) -> Examined:
    """Find out what is to be done about the current version of a file.

    Raises:
        NotFound: no such file.
        Conflict: nothing can be done or need be; the message says what the user would do.
        StoreUnavailable: repeat the call.
    """
    with database.read() as session:
        known = get_file(session, project, key)
        version = session.get_one(FileVersionRow, known.row_id)
        file = file_rows.catalogued(key, version)
        ended = _index_end(session, project, version)
        open_job = _open_job(session, project, file, version)
    if known.deleted:
        raise Conflict(
            f"{key!r} cannot be repaired: it is deleted.",
            hint=f"`divbase files restore '{key}'` brings it back.",
            details={"key": key, "deleted": True},
        )
    if open_job is not None:
        return Examined(key, file.version_id, None, open_job)
    condition = None
    if file.state is FileState.UNUSABLE and ended is None and file.format is not FileFormat.OTHER:
        condition = _look(store, project.bucket, version, file)
    return Examined(key, file.version_id, choose_mend(file, ended, condition))


def _look(store: ObjectStore, bucket: str, version: FileVersionRow, file: CataloguedFile) -> Condition:
    info = ObjectInfo(file.key, file.version_id, file.size, file.etag, version.uploaded_at)
    return catalogue.examine(store, bucket, info)


def _index_end(session: Session, project: ProjectRow, version: FileVersionRow) -> IndexEnd | None:
    job = rows.get_job(session, project.id, version.index_job) if version.index_job else None
    return IndexEnd(job.public_id, job.reason) if job is not None and JobState(job.state).is_end else None


def _open_job(session: Session, project: ProjectRow, file: CataloguedFile, version: FileVersionRow) -> str | None:
    if version.state == FileState.UNUSABLE:
        mending = rows.find_open(session, project.id, plan_repair(file).digest)
        return mending.public_id if mending is not None else None
    return version.index_job if version.state == FileState.INDEXING else None


def accept(
    session: Session, project: ProjectRow, user: UserRow, examined: Examined, policy: JobPolicy, now: datetime
) -> Accepted:
    """Commit to mending what was examined, once however many ask for it.

    Raises:
        Conflict: the file has changed since it was looked at.
        BeyondCeiling: the job needs more than a job of the project may have.
        LimitReached: project or user have no room for it at the moment.
    """
    row = file_rows.claim_file(session, project.id, examined.key)
    version = session.get(FileVersionRow, row.current_id) if row.current_id else None
    if version is None or row.deleted_at is not None or version.version_id != examined.version_id:
        raise _changed(examined.key)
    file = file_rows.catalogued(examined.key, version)
    there = examined.open_job or _open_job(session, project, file, version)
    if there is not None:
        return Accepted(jobs.get_job(session, project, there), is_new=False)
    if version.state != FileState.UNUSABLE:
        raise _changed(examined.key)
    if examined.mend is Mend.INDEX:
        version.state, version.reason = FileState.INDEXING, None
        return Accepted(jobs.accept_index_job(session, project, version, examined.key, user, now), is_new=True)
    job = jobs.accept_repair_job(session, project, user, plan_repair(file), policy, now)
    return Accepted(job, is_new=True)


def _changed(key: str) -> Conflict:
    return Conflict(
        f"{key!r} has changed while it was looked at.",
        hint=f"Look at it with `divbase files info '{key}'`, and ask again if it still needs mending.",
        details={"key": key},
    )
