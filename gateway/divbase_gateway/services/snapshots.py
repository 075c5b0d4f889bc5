"""Snapshots: the versions that a project's files had at one moment, under a name. Queries run at one, and what it names
is never deleted by DivBase. Nothing is copied; only the sample table is ever read from the store here."""

from __future__ import annotations

import difflib
from datetime import datetime

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from divbase_gateway.db import files as file_rows
from divbase_gateway.db import snapshots as rows
from divbase_gateway.db.models import ProjectRow, SnapshotRow, UserRow
from divbase_gateway.domain.errors import Conflict, Forbidden, InvalidSelection, NotFound
from divbase_gateway.domain.files import METADATA_KEY, CataloguedFile
from divbase_gateway.domain.projects import Role
from divbase_gateway.domain.samples import SampleTable
from divbase_gateway.domain.snapshots import is_snapshot_name, validate_snapshot
from divbase_gateway.ports import ObjectStore
from divbase_gateway.services import metadata
from divbase_gateway.services.versions import StoredFile, stored_file


def create_snapshot(
    session: Session, project: ProjectRow, user: UserRow, name: str, note: str, now: datetime
) -> SnapshotRow:
    """Name the current version of every file of the project, as they are at this moment.

    A file that is being uploaded is in it once its upload is completed, and not before.

    Raises:
        InvalidName: of the snapshot, or its note.
        Conflict: there is one of this name, or the project has no files.
    """
    validate_snapshot(name, note)
    snapshot = SnapshotRow(project_id=project.id, name=name, note=note, created_at=now, files=0, bytes=0)
    snapshot.created_by = session.get(UserRow, user.id)
    try:
        with session.begin_nested():
            session.add(snapshot)
    except IntegrityError as error:
        raise Conflict(
            f"Project {project.name} has a snapshot {name!r} already.",
            hint=f"Choose another name, or remove that one: divbase snapshots rm {name}",
            details={"snapshot": name, "project": project.name},
        ) from error
    snapshot.files, snapshot.bytes = rows.name_current_versions(session, snapshot)
    if not snapshot.files:
        raise Conflict(
            f"Project {project.name} has no files, so there is nothing to keep.",
            hint="`divbase files upload` adds some.",
            details={"project": project.name},
        )
    session.flush()
    return snapshot


def list_snapshots(session: Session, project: ProjectRow, before: int | None, limit: int) -> list[SnapshotRow]:
    """The project's snapshots, newest first; `before` is the row id that the last page ended with."""
    return rows.list_snapshots(session, project.id, before, limit)


def get_snapshot(session: Session, project: ProjectRow, name: str) -> SnapshotRow:
    """The snapshot with who made it.

    Raises:
        NotFound: naming the project, and names that look like it.
    """
    found = rows.find_snapshot(session, project.id, name) if is_snapshot_name(name) else None
    if found is None:
        known = [each.name for each in rows.list_snapshots(session, project.id, None, 1000)]
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.7)
        also = f" Close to it: {', '.join(map(repr, close))}." if close else ""
        raise NotFound(
            f"Project {project.name} has no snapshot {name!r}.{also}",
            hint="`divbase snapshots ls` lists its snapshots.",
            details={"snapshot": name, "project": project.name, "close": close},
        )
    return found


def list_files(session: Session, snapshot: SnapshotRow, after: str | None, limit: int) -> list[StoredFile]:
    """Up to `limit` of the versions that it names, by key, after this key. Whether one is the latest is told of now."""
    found = file_rows.page_at(session, snapshot.id, after=after, limit=limit)
    return [stored_file(file, version) for file, version in found]


def remove_snapshot(session: Session, project: ProjectRow, name: str, user: UserRow, role: Role) -> None:
    """Forget the name. The versions stay, but this snapshot protects them no longer.

    Raises:
        NotFound: there is none of this name.
        Forbidden: it is somebody else's and the role is below MANAGE.
    """
    snapshot = get_snapshot(session, project, name)
    if snapshot.created_by_id != user.id and not role.includes(Role.MANAGE):
        whose = snapshot.created_by.email if snapshot.created_by else "somebody who is gone"
        raise Forbidden(
            f"Snapshot {name!r} was made by {whose}; to remove another's takes the role MANAGE.",
            details={"needed": Role.MANAGE, "role": role},
        )
    session.delete(snapshot)
    session.flush()


def catalogue_at(session: Session, snapshot: SnapshotRow) -> list[CataloguedFile]:
    """Every variant file of the snapshot in the version that it names, in key order, deleted since or not."""
    return file_rows.catalogue_at(session, snapshot.id)


def load_table_at(store: ObjectStore, session: Session, project: ProjectRow, snapshot: SnapshotRow) -> SampleTable:
    """The project's sample table as it was.

    Raises:
        InvalidSelection: there was none, or its content is gone from the bucket.
        InvalidMetadata: there was one, with these faults.
        StoreUnavailable: the store does not answer.
    """
    version = file_rows.find_version_at(session, snapshot.id, METADATA_KEY)
    if version is None:
        raise InvalidSelection(
            f"There is no {METADATA_KEY} in snapshot {snapshot.name!r}, so there is nothing to filter by.",
            hint="Choose samples with --samples or --all-samples.",
        )
    try:
        return metadata.read_version(
            store, project.bucket, METADATA_KEY, version.version_id, version.etag, version.size
        )
    except NotFound as error:
        raise InvalidSelection(
            f"The {METADATA_KEY} of snapshot {snapshot.name!r} is gone from the bucket: its version "
            f"{version.version_id} was removed there, not by DivBase.",
            hint="Choose samples with --samples or --all-samples; ask who keeps the bucket's lifecycle rules.",
            details={"unknown": [METADATA_KEY], "known": []},
        ) from error


def refuse_if_named(session: Session, project: ProjectRow, key: str, version_id: str) -> None:
    """For who is about to delete a version for good.

    Raises:
        Conflict: snapshots name it; it says which.
    """
    names = rows.names_of_version(session, project.id, key, version_id)
    if names:
        raise Conflict(
            f"This version of {key!r} is kept by {'snapshot' if len(names) == 1 else 'snapshots'} "
            f"{', '.join(names)}, so it cannot be removed for good.",
            hint=f"`divbase snapshots rm {names[0]}` removes a snapshot; its files stay as they are.",
            details={"key": key, "version": version_id, "snapshots": names},
        )
