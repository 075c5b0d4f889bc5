"""Routes of snapshots. They know the wire models; what a snapshot names and who may remove it is for the services."""

from __future__ import annotations

from divbase_client import models
from fastapi import Response

from divbase_gateway.api.auth import Editor, Reader
from divbase_gateway.api.deps import ReadSession, WriteSession
from divbase_gateway.api.files import file_of
from divbase_gateway.api.idempotency import Once, idempotently
from divbase_gateway.api.pagination import Paging
from divbase_gateway.api.routes import new_router
from divbase_gateway.db.models import SnapshotRow
from divbase_gateway.services import snapshots

router = new_router("snapshots")


@router.get("/projects/{project}/snapshots")
def list_snapshots(caller: Reader, session: ReadSession, paging: Paging) -> models.Page[models.Snapshot]:
    """The project's snapshots, newest first."""
    found = snapshots.list_snapshots(session, caller.project, paging.after_id, paging.fetch)
    return paging.page(found, snapshot_of, lambda row: row.id)


@router.post("/projects/{project}/snapshots", status_code=201, response_model=models.Snapshot)
def create_snapshot(new: models.NewSnapshot, caller: Editor, session: WriteSession, once: Once) -> Response:
    """Give the current versions of all files a name. Nothing is copied, whatever their size."""

    def create() -> models.Snapshot:
        made = snapshots.create_snapshot(session, caller.project, caller.user, new.name, new.note, once.now)
        return snapshot_of(made)

    return idempotently(once, session, caller, new, create)


@router.get("/projects/{project}/snapshots/{snapshot}")
def show_snapshot(snapshot: str, caller: Reader, session: ReadSession) -> models.Snapshot:
    """One snapshot."""
    return snapshot_of(snapshots.get_snapshot(session, caller.project, snapshot))


@router.get("/projects/{project}/snapshots/{snapshot}/files")
def list_snapshot_files(
    snapshot: str, caller: Reader, session: ReadSession, paging: Paging
) -> models.Page[models.File]:
    """The files of a snapshot by name, each in the version that the snapshot has of it."""
    found = snapshots.get_snapshot(session, caller.project, snapshot)
    files = snapshots.list_files(session, found, paging.after, paging.fetch)
    return paging.page(files, file_of, lambda file: file.key)


@router.delete("/projects/{project}/snapshots/{snapshot}", status_code=204)
def remove_snapshot(snapshot: str, caller: Editor, session: WriteSession) -> None:
    """Remove a snapshot: its creator may, and who has MANAGE. The files stay."""
    snapshots.remove_snapshot(session, caller.project, snapshot, caller.user, caller.role)


def snapshot_of(row: SnapshotRow) -> models.Snapshot:
    """The wire form of a snapshot; who made it has to be loaded."""
    return models.Snapshot(
        name=row.name,
        note=row.note,
        created_by=row.created_by.email if row.created_by else None,
        created_at=row.created_at,
        files=row.files,
        bytes=row.bytes,
    )
