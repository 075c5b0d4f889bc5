"""Files of a project: list, show, download, delete and restore them, and find those that came another way.

Nothing here moves bytes. S3 is only changed or listed outside of write transactions; whoever calls opens none.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy.orm import Session

from divbase_gateway.db import files as rows
from divbase_gateway.db import uploads as upload_rows
from divbase_gateway.db.index_maps import replace_index_maps
from divbase_gateway.db.models import FileRow, FileVersionRow, JobRow, ProjectRow, UserRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import Conflict, InvalidName, InvalidRequest, NotFound
from divbase_gateway.domain.files import RESERVED_PREFIXES, CataloguedFile, FileFormat, format_of, validate_key
from divbase_gateway.ports import Audience, Clock, ObjectInfo, ObjectStore, PresignedRequest
from divbase_gateway.services import versions
from divbase_gateway.services.catalogue import Indexed
from divbase_gateway.services.jobs import is_removable
from divbase_gateway.services.retention import check_there
from divbase_gateway.services.uploads import UPLOAD_LIFETIME, UPLOAD_MARK
from divbase_gateway.services.versions import Look, StoredFile, stored_file

log = structlog.get_logger()

_READERS = 8
_BATCH = 50


@dataclass(frozen=True)
class FileDownload:
    """One pinned version and the request that fetches it. `size` in bytes, `sha256` hex or None."""

    key: str
    version_id: str
    size: int
    sha256: str | None
    etag: str
    request: PresignedRequest
    result_of: JobRow | None = None  # whose use that is (`retention.note_use`); None for any other file


@dataclass(frozen=True)
class Listing:
    """What part of a project is wanted. `deleted` adds the deleted files, `versions` the older versions."""

    prefix: str = ""
    versions: bool = False
    deleted: bool = False

    def position(self, file: StoredFile) -> str:
        """Where a listing goes on after this entry."""
        return f"{file.row_id}/{file.key}" if self.versions else file.key


# --- looking -------------------------------------------------------------------------------------------------------


def list_files(
    session: Session, project: ProjectRow, listing: Listing, after: str | None, limit: int
) -> list[StoredFile]:
    """Up to `limit` files by key (with `versions` every version, newest first) after a `Listing.position`.

    Raises:
        InvalidRequest: the position is of another listing.
    """
    where = {"prefix": listing.prefix, "deleted": listing.deleted, "limit": limit}
    if listing.versions:
        place = None if after is None else _version_position(after)
        found = rows.page_of_versions(session, project.id, after=place, **where)  # type: ignore[arg-type]
    else:
        found = rows.page_of_files(session, project.id, after=after, **where)  # type: ignore[arg-type]
    return [stored_file(file, version) for file, version in found]


def get_file(session: Session, project: ProjectRow, key: str, version_id: str | None = None) -> StoredFile:
    """The current version of a file, deleted or not, or the one that is named.

    Raises:
        NotFound: naming the key, the project and keys that look like it.
    """
    file = rows.find_file(session, project.id, key)
    if file is None or file.current is None:
        raise _no_such_file(session, project, key)
    if version_id is None:
        return stored_file(file, file.current)
    version = rows.find_version(session, file.id, version_id)
    if version is None:
        raise NotFound(
            f"{key!r} in project {project.name} has no version {version_id!r}.",
            hint=f"`divbase files ls --versions --prefix '{key}'` lists its versions.",
            details={"key": key, "project": project.name, "version": version_id},
        )
    return stored_file(file, version)


def get_download(
    session: Session, store: ObjectStore, project: ProjectRow, key: str, version_id: str | None, expires: timedelta
) -> FileDownload:
    """A presigned GET of one pinned version; of a deleted file only where the version is named. No call to S3.

    Keys under `results/` are the results of the project's jobs.

    Raises:
        NotFound: no such file, version or result, or the file is deleted.
        ResultRemoved: the result was there, and its time is over.
    """
    if key.startswith("results/"):
        job, result = _find_result(session, project, key, version_id)
        request = _signed(store, project, key, result["version_id"], expires)
        etag, used = result.get("etag", ""), job if is_removable(job, result) else None
        return FileDownload(key, result["version_id"], result["size"], result["sha256"], etag, request, used)
    file = get_file(session, project, key, version_id)
    if file.deleted and version_id is None:
        raise _deleted(project, key)
    request = _signed(store, project, key, file.version_id, expires)
    return FileDownload(key, file.version_id, file.size, file.sha256, file.etag, request)


def catalogue_of(session: Session, project_id: int) -> list[CataloguedFile]:
    """The current version of every variant file that is not deleted, in key order, whatever its state. One query."""
    return rows.catalogue_of(session, project_id)


def catalogued(version: FileVersionRow) -> CataloguedFile:
    """A version's row as the domain sees it; `version.file` has to be loaded."""
    return rows.catalogued(version.file.key, version)


def store_indexed(session: Session, version: FileVersionRow, indexed: Indexed) -> None:
    """Write down a version that has its index now."""
    rows.set_catalogued(version, indexed.file)
    replace_index_maps(session, version.id, indexed.maps)


def _signed(store: ObjectStore, project: ProjectRow, key: str, version_id: str, expires: timedelta) -> PresignedRequest:
    name = key.rpartition("/")[2]
    return store.presign_get(project.bucket, key, version_id, Audience.LAPTOP, expires, name)


def _version_position(after: str) -> tuple[str, int]:
    number, slash, key = after.partition("/")
    if not (slash and number.isascii() and number.isdigit()):
        raise InvalidRequest("The cursor is not one of a listing of versions.", hint="Pass `next_cursor` as it came.")
    return key, int(number)


def _find_result(
    session: Session, project: ProjectRow, key: str, version_id: str | None
) -> tuple[JobRow, dict[str, Any]]:
    job = key.split("/")[1]
    row = rows.job_with_results(session, project.id, job)
    for result in row.results if row else []:
        if row is not None and result["key"] == key and version_id in (None, result["version_id"]):
            if is_removable(row, result):
                check_there(row)
            return row, result
    raise NotFound(
        f"Project {project.name} has no result {key!r}" + (f" of version {version_id!r}." if version_id else "."),
        hint=f"`divbase jobs show {job}` shows the job and what it left."
        if job
        else "`divbase jobs ls` lists the jobs.",
        details={"key": key, "project": project.name},
    )


def _no_such_file(session: Session, project: ProjectRow, key: str) -> NotFound:
    close = _close_keys(key, rows.keys_of(session, project.id))
    also = f" Close to it: {', '.join(map(repr, close))}." if close else ""
    return NotFound(
        f"Project {project.name} has no file {key!r}.{also}",
        hint="`divbase files ls` lists its files.",
        details={"key": key, "project": project.name, "close": close},
    )


def _close_keys(key: str, keys: Sequence[str]) -> list[str]:
    """Up to three keys that are the same but for folder or letter case, else those that are spelt much alike."""
    name = key.rpartition("/")[2].lower()
    same = [known for known in keys if known.rpartition("/")[2].lower() == name]
    return same[:3] or difflib.get_close_matches(key, keys, n=3, cutoff=0.7)


def _deleted(project: ProjectRow, key: str) -> NotFound:
    return NotFound(
        f"{key!r} in project {project.name} is deleted.",
        hint=f"`divbase files restore '{key}'` brings it back.",
        details={"key": key, "project": project.name, "deleted": True},
    )


# --- deleting and restoring ----------------------------------------------------------------------------------------


def delete_file(database: Database, store: ObjectStore, clock: Clock, project: ProjectRow, key: str) -> StoredFile:
    """Put a delete marker on the file; its versions stay. A file that is deleted stays as it is.

    Raises:
        NotFound: no such file.
        StoreUnavailable: nothing was recorded; repeat the call.
    """
    with database.read() as session:
        file = get_file(session, project, key)
    if file.deleted:
        return file
    marker = _put_marker(store, project.bucket, key)
    with database.write() as session:
        row = rows.claim_file(session, project.id, key)
        if row.deleted_at is None:
            row.deleted_at, row.delete_marker = clock.now(), marker
            session.flush()
        return get_file(session, project, key)


def uncover_file(database: Database, store: ObjectStore, project: ProjectRow, key: str) -> None:
    """Take the delete markers off the file in the bucket, whoever put them there; `record_restore` then says so.

    Raises:
        NotFound: no such file.
        Conflict: its version is gone from the bucket.
        StoreUnavailable: repeat the call.
    """
    with database.read() as session:
        file = get_file(session, project, key)
    try:
        store.head(project.bucket, key, file.version_id)
    except NotFound as error:
        raise Conflict(
            f"The content of {key!r} in project {project.name} is gone from the bucket.",
            hint="Upload it again.",
            details={"key": key, "project": project.name, "version": file.version_id},
        ) from error
    for marker in list(_markers_on_top(store, project.bucket, key)):
        with suppress(NotFound):  # another call was faster
            store.delete_version(project.bucket, key, marker)


def record_restore(session: Session, project: ProjectRow, key: str) -> StoredFile:
    """Note that the file is back. Without effect on a file that is not deleted."""
    row = rows.claim_file(session, project.id, key)
    row.deleted_at = row.delete_marker = None
    session.flush()
    return get_file(session, project, key)


def _put_marker(store: ObjectStore, bucket: str, key: str) -> str | None:
    try:
        return store.delete(bucket, key)
    except NotFound:
        return None  # it was deleted in the bucket already, without DivBase


def _markers_on_top(store: ObjectStore, bucket: str, key: str) -> Iterator[str]:
    for entry in store.list_versions(bucket, key):
        if entry.key != key:
            continue
        if not entry.deleted:
            return
        yield entry.version_id


# --- refreshing ----------------------------------------------------------------------------------------------------


def refresh(
    database: Database, store: ObjectStore, clock: Clock, project: ProjectRow, user: UserRow
) -> list[StoredFile]:
    """Catalogue what is in the bucket without DivBase knowing, and note what was deleted there. What changed, by key.

    Opens its own transactions, each a short one. Index jobs that it needs belong to `user`. Objects that cannot be
    files of a project by their name are left alone and logged.

    Raises:
        StoreUnavailable: what was recorded until then stays; repeat the call.
    """
    with database.read() as session:
        known = rows.known_versions(session, project.id)
        uploading = upload_rows.open_upload_ids(session, project.id, clock.now() - UPLOAD_LIFETIME)
    there = {info.key: info for info in _nameable(store.list_objects(project.bucket), project)}
    fresh = [info for info in there.values() if known.get(info.key) != (info.version_id, False)]
    changed: dict[str, StoredFile] = {}
    indexes = [info for info in fresh if format_of(info.key) is FileFormat.INDEX]
    others = [info for info in fresh if format_of(info.key) is not FileFormat.INDEX]
    adopter = _Adopter(database, store, clock, project, user, known, uploading)
    for group in (indexes, others):  # the indexes first, so that their files find them
        changed.update(adopter.adopt(group))
    for info in indexes:
        if info.key in changed:
            versions.adopt_user_index(database, store, project, info.key)
    changed.update(_note_deletions(database, clock, project, known, there))
    return [changed[key] for key in sorted(changed)]


@dataclass(frozen=True)
class _Adopter:
    """Looks at unknown objects, several at a time, and records them in batches."""

    database: Database
    store: ObjectStore
    clock: Clock
    project: ProjectRow
    user: UserRow
    known: dict[str, tuple[str | None, bool]]
    uploading: set[str]

    def adopt(self, infos: Sequence[ObjectInfo]) -> dict[str, StoredFile]:
        changed: dict[str, StoredFile] = {}
        with ThreadPoolExecutor(_READERS) as readers:
            for start in range(0, len(infos), _BATCH):
                looks = [found for found in readers.map(self._look, infos[start : start + _BATCH]) if found]
                changed.update(self._record(looks))
        return changed

    def _look(self, listed: ObjectInfo) -> tuple[ObjectInfo, Look] | None:
        try:
            info = self.store.head(self.project.bucket, listed.key, listed.version_id)
            if info.metadata.get(UPLOAD_MARK) in self.uploading:
                return None  # its upload will be completed, and verified then
            return info, versions.look_at(self.database, self.store, self.project, info, None)
        except NotFound:
            return None  # removed since the listing

    def _record(self, looks: Iterable[tuple[ObjectInfo, Look]]) -> dict[str, StoredFile]:
        changed = {}
        with self.database.write() as session:
            for info, look in looks:
                if _current_version(session, self.project, info.key) != self.known.get(info.key, (None, False)):
                    continue  # somebody has uploaded, deleted or restored it since we looked
                now = self.clock.now()
                file, version = versions.record(
                    session,
                    self.project.id,
                    look,
                    uploaded_by=None,
                    asked_by=self.user,
                    uploaded_at=info.modified_at,
                    now=now,
                )
                changed[info.key] = stored_file(file, version)
        return changed


def _nameable(infos: Iterable[ObjectInfo], project: ProjectRow) -> Iterator[ObjectInfo]:
    for info in infos:
        if info.key.startswith(RESERVED_PREFIXES):
            continue
        try:
            validate_key(info.key)
        except InvalidName as error:
            if not info.key.endswith("/"):  # what some S3 browsers put for a folder
                log.warning("file.name_refused", project=project.name, key=info.key, message=error.message)
            continue
        yield info


def _current_version(session: Session, project: ProjectRow, key: str) -> tuple[str | None, bool]:
    file = rows.find_file(session, project.id, key)
    if file is None:
        return None, False
    return (file.current.version_id if file.current else None), file.deleted_at is not None


def _note_deletions(
    database: Database,
    clock: Clock,
    project: ProjectRow,
    known: dict[str, tuple[str | None, bool]],
    there: dict[str, ObjectInfo],
) -> dict[str, StoredFile]:
    gone = [key for key, (_, deleted) in known.items() if not deleted and key not in there]
    changed: dict[str, StoredFile] = {}
    if not gone:
        return changed
    with database.write() as session:
        for key in gone:
            if _current_version(session, project, key) == known[key]:
                file: FileRow = rows.claim_file(session, project.id, key)
                file.deleted_at = clock.now()
                session.flush()
                changed[key] = get_file(session, project, key)
    return changed
