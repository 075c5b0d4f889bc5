"""Queries over uploads that were begun. They know rows only; what S3 has of an upload is asked elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from divbase_gateway.db.models import ProjectRow, UploadRow


def find_upload(session: Session, project_id: int, public_id: str, *, lock: bool = False) -> UploadRow | None:
    """The upload of this project, or None; with `lock`, fresh and held until the end of the transaction."""
    query = select(UploadRow).where(UploadRow.project_id == project_id, UploadRow.public_id == public_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return session.scalar(query)


def find_open_upload(session: Session, project_id: int, key: str, size: int, sha256: str) -> UploadRow | None:
    """The newest upload of exactly this content to this key that was neither completed nor aborted."""
    query = (
        select(UploadRow)
        .where(
            UploadRow.project_id == project_id,
            UploadRow.key == key,
            UploadRow.size == size,
            UploadRow.sha256 == sha256,
            UploadRow.completed_at.is_(None),
        )
        .order_by(UploadRow.id.desc())
        .limit(1)
    )
    return session.scalar(query)


def open_upload_ids(session: Session, project_id: int, since: datetime) -> set[str]:
    """Public ids of the open uploads of a project that were begun at or after `since`."""
    query = select(UploadRow.public_id).where(
        UploadRow.project_id == project_id, UploadRow.completed_at.is_(None), UploadRow.created_at >= since
    )
    return set(session.scalars(query))


def opened_before(
    session: Session, before: datetime, limit: int, without: Collection[str] = ()
) -> list[tuple[str, UploadRow]]:
    """Open uploads that were begun before then, the oldest first, each with the bucket of its project, which is none of
    `without`."""
    query = (
        select(ProjectRow.bucket, UploadRow)
        .join(UploadRow, UploadRow.project_id == ProjectRow.id)
        .where(UploadRow.completed_at.is_(None), UploadRow.created_at < before, ProjectRow.bucket.not_in(without))
        .order_by(UploadRow.created_at)
        .limit(limit)
    )
    return [(bucket, upload) for bucket, upload in session.execute(query)]
