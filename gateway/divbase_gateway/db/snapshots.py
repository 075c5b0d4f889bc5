"""Queries over snapshots: their rows, and which file versions they name. Who may do what is decided in `services`."""

from __future__ import annotations

from sqlalchemy import func, insert, literal, select
from sqlalchemy.orm import Session, joinedload

from divbase_gateway.db.models import FileRow, FileVersionRow, SnapshotFileRow, SnapshotRow


def find_snapshot(session: Session, project_id: int, name: str) -> SnapshotRow | None:
    """The snapshot with who made it."""
    query = select(SnapshotRow).where(SnapshotRow.project_id == project_id, SnapshotRow.name == name)
    return session.scalar(query.options(joinedload(SnapshotRow.created_by)))


def list_snapshots(session: Session, project_id: int, before: int | None, limit: int) -> list[SnapshotRow]:
    """Newest first, those with an id below `before`, each with who made it."""
    query = select(SnapshotRow).where(SnapshotRow.project_id == project_id).options(joinedload(SnapshotRow.created_by))
    if before is not None:
        query = query.where(SnapshotRow.id < before)
    return list(session.scalars(query.order_by(SnapshotRow.id.desc()).limit(limit)))


def name_current_versions(session: Session, snapshot: SnapshotRow) -> tuple[int, int]:
    """Let the snapshot name the current version of every file that is not deleted: (files, their bytes together).

    One statement reads them all, so that they are those of one moment, whatever is uploaded meanwhile.
    """
    current = select(literal(snapshot.id), FileRow.current_id).where(
        FileRow.project_id == snapshot.project_id, FileRow.deleted_at.is_(None), FileRow.current_id.is_not(None)
    )
    session.execute(insert(SnapshotFileRow).from_select(["snapshot_id", "version_id"], current))
    totals = (
        select(func.count(), func.coalesce(func.sum(FileVersionRow.size), 0))
        .select_from(SnapshotFileRow)
        .join(FileVersionRow, FileVersionRow.id == SnapshotFileRow.version_id)
        .where(SnapshotFileRow.snapshot_id == snapshot.id)
    )
    files, size = session.execute(totals).one()
    return int(files), int(size)


def names_of_version(session: Session, project_id: int, key: str, version_id: str) -> list[str]:
    """The names of the snapshots that name this version of a file, oldest first."""
    query = (
        select(SnapshotRow.name)
        .join(SnapshotFileRow, SnapshotFileRow.snapshot_id == SnapshotRow.id)
        .join(FileVersionRow, FileVersionRow.id == SnapshotFileRow.version_id)
        .join(FileRow, FileRow.id == FileVersionRow.file_id)
        .where(FileRow.project_id == project_id, FileRow.key == key, FileVersionRow.version_id == version_id)
        .order_by(SnapshotRow.id)
    )
    return list(session.scalars(query))
