"""A file version on its way into the database: looked at in the store first, then recorded in one short transaction.

It opens its own sessions so that no write lock is held while S3 is read; it does not know how the object came to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy.orm import Session

from divbase_gateway.db import files as rows
from divbase_gateway.db.index_maps import replace_index_maps
from divbase_gateway.db.models import FileRow, FileVersionRow, ProjectRow, UserRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import InvalidMetadata, NotFound
from divbase_gateway.domain.files import (
    METADATA_KEY,
    CataloguedFile,
    Contig,
    FileFormat,
    FileState,
    IndexKind,
    IndexRef,
    format_of,
)
from divbase_gateway.ports import ObjectInfo, ObjectStore
from divbase_gateway.services import catalogue, jobs, metadata

_MAX_REASON_FAULTS = 100


@dataclass(frozen=True)
class StoredFile:
    """One recorded version of a file, for those above the services. `row_id` orders the versions of a key.

    `uploaded_by` is an email address; `index_job` the public id of the job that builds or built the index.
    """

    row_id: int
    key: str
    version_id: str
    size: int
    sha256: str | None
    etag: str
    state: FileState
    reason: str | None
    format: FileFormat
    samples: tuple[str, ...]
    contigs: tuple[Contig, ...]
    index: IndexRef | None
    index_job: str | None
    uploaded_at: datetime
    uploaded_by: str | None
    deleted: bool
    is_latest: bool

    @property
    def variants(self) -> int | None:
        """Records in the file, None while no index has counted them."""
        counts = [contig.variants for contig in self.contigs if contig.variants is not None]
        return sum(counts) if counts else None


def stored_file(file: FileRow, version: FileVersionRow) -> StoredFile:
    """The value of two rows; `version.uploaded_by` has to be loaded."""
    known = rows.catalogued(file.key, version)
    return StoredFile(
        row_id=version.id,
        key=file.key,
        version_id=version.version_id,
        size=version.size,
        sha256=version.sha256,
        etag=version.etag,
        state=known.state,
        reason=version.reason,
        format=known.format,
        samples=known.samples,
        contigs=known.contigs,
        index=known.index,
        index_job=version.index_job,
        uploaded_at=version.uploaded_at,
        uploaded_by=version.uploaded_by.email if version.uploaded_by else None,
        deleted=file.deleted_at is not None,
        is_latest=version.id == file.current_id,
    )


@dataclass(frozen=True)
class Look:
    """What was seen of an object before it is recorded. `candidates` are the indexes that there were at that time,
    `maps` what the one that is used says of places, packed, by contig."""

    file: CataloguedFile
    candidates: tuple[ObjectInfo, ...]
    maps: Mapping[str, bytes]


def look_at(database: Database, store: ObjectStore, project: ProjectRow, info: ObjectInfo, sha256: str | None) -> Look:
    """Read of the object what the catalogue keeps: header and index of a variant file, a sample table whole.

    Raises:
        StoreUnavailable: the store went away; nothing was recorded.
    """
    with database.read() as session:
        candidates = index_candidates(session, project.id, info.key)
    inspection = catalogue.inspect(store, project.bucket, info, sha256, candidates)
    file = inspection.file
    if inspection.index_warning and file.state is not FileState.UNUSABLE:
        file = replace(file, reason=inspection.index_warning)
    if info.key == METADATA_KEY:
        file = _judge_table(store, project.bucket, file)
    return Look(file, candidates, inspection.maps)


def index_candidates(session: Session, project_id: int, key: str) -> tuple[ObjectInfo, ...]:
    """The objects that users put beside a variant file as its index: `<key>.csi` before `<key>.tbi`."""
    if format_of(key) not in rows.VARIANT_FORMATS:
        return ()
    wanted = [f"{key}.{kind}" for kind in (IndexKind.CSI, IndexKind.TBI)]
    found = {file.key: file.current for file in rows.find_files(session, project_id, wanted)}
    return tuple(_object_info(name, version) for name in wanted if (version := found.get(name)) is not None)


def record(
    session: Session,
    project_id: int,
    look: Look,
    *,
    uploaded_by: UserRow | None,
    asked_by: UserRow,
    uploaded_at: datetime,
    now: datetime,
    latest: str | None = None,
) -> tuple[FileRow, FileVersionRow]:
    """Write the version down, once however often it is called, and accept the job that builds its index.

    Args:
        asked_by: who the index job belongs to.
        latest: the version that S3 calls the newest; where that is recorded and is another one, it stays the current.
    """
    seen = look.file
    file = rows.claim_file(session, project_id, seen.key)
    version = rows.find_version(session, file.id, seen.version_id)
    if version is None:
        version = FileVersionRow(file_id=file.id, uploaded_at=uploaded_at, uploaded_by_id=None)
        version.uploaded_by = uploaded_by
        rows.set_catalogued(version, seen)
        session.add(version)
        session.flush()
        replace_index_maps(session, version.id, look.maps)
        _request_index(session, project_id, seen.key, version, asked_by, now)
    version.sha256 = version.sha256 or seen.sha256
    current = session.get(FileVersionRow, file.current_id) if file.current_id else None
    if current is None or latest in (None, seen.version_id) or current.version_id != latest:
        file.current_id = version.id
    file.deleted_at = file.delete_marker = None
    session.flush()
    return file, version


def adopt_user_index(database: Database, store: ObjectStore, project: ProjectRow, index_key: str) -> None:
    """Let the variant file beside a new index use it, if the index is a valid one of that file.

    An index job that runs already does no harm: what it builds is not used while a user's index is.
    """
    variant_key = index_key.rpartition(".")[0]
    with database.read() as session:
        version = _waiting_for_index(session, project.id, variant_key)
    if version is None:
        return
    try:
        info = _object_info(variant_key, version)
        look = look_at(database, store, project, info, version.sha256)
    except NotFound:
        return  # the bucket has lost the variant file; a refresh will note it
    if look.file.state is not FileState.READY:
        return
    with database.write() as session:
        file = rows.claim_file(session, project.id, variant_key)
        current = rows.find_version(session, file.id, info.version_id)
        if current is not None:
            rows.set_catalogued(current, look.file)
            replace_index_maps(session, current.id, look.maps)


def _waiting_for_index(session: Session, project_id: int, key: str) -> FileVersionRow | None:
    """The current version of a variant file that could use a user's index which it does not use yet.

    One whose index job failed is among them: its header was read before that.
    """
    file = rows.find_file(session, project_id, key)
    version = file.current if file and file.deleted_at is None else None
    if version is None or version.format not in rows.VARIANT_FORMATS:
        return None
    if version.state not in (FileState.INDEXING, FileState.READY) and version.index_job is None:
        return None
    best = index_candidates(session, project_id, key)[:1]
    used = (version.index_key, version.index_version_id)
    return version if best and (best[0].key, best[0].version_id) != used else None


def _request_index(
    session: Session, project_id: int, key: str, version: FileVersionRow, asked_by: UserRow, now: datetime
) -> None:
    if version.state == FileState.INDEXING and version.index_job is None:
        project = session.get_one(ProjectRow, project_id)
        jobs.accept_index_job(session, project, version, key, session.get_one(UserRow, asked_by.id), now)


def _judge_table(store: ObjectStore, bucket: str, file: CataloguedFile) -> CataloguedFile:
    try:
        metadata.read_version(store, bucket, file.key, file.version_id, file.etag, file.size)
    except InvalidMetadata as error:
        return replace(file, state=FileState.UNUSABLE, reason=metadata.reason_of(error, _MAX_REASON_FAULTS))
    return file


def _object_info(key: str, version: FileVersionRow) -> ObjectInfo:
    return ObjectInfo(key, version.version_id, version.size, version.etag, version.uploaded_at)
