"""What a project keeps in its bucket and the most that it may: an upload that would go over is refused before anything
is sent, a query once there is no room at all. Sizes are those that the rows know; the bucket is never listed."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy.orm import Session

from divbase_gateway.db import storage as rows
from divbase_gateway.db.allocations import lock_project
from divbase_gateway.db.models import ProjectRow
from divbase_gateway.db.storage import Stored
from divbase_gateway.domain.errors import StorageFull
from divbase_gateway.services.policy import JobPolicy

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True)
class Storage:
    """What is stored, and the limit in bytes; None: there is none."""

    stored: Stored
    limit: int | None

    @property
    def left(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.stored.total)


def limit_of(project: ProjectRow, policy: JobPolicy) -> int | None:
    """The most bytes that a project may keep: its own number, and the site's where it has none."""
    return policy.project_bytes if project.max_bytes is None else project.max_bytes


def storage_of(session: Session, project: ProjectRow, policy: JobPolicy) -> Storage:
    """What the project keeps at the moment."""
    return Storage(rows.stored(session, project.id), limit_of(project, policy))


def check_upload(
    session: Session, project: ProjectRow, policy: JobPolicy, key: str, size: int, *, instead_of: int = 0
) -> None:
    """Make sure that there is room for an upload, beside those that are open.

    Args:
        instead_of: bytes of an open upload that this one replaces.

    Raises:
        StorageFull: there is not.
    """
    if limit_of(project, policy) is None:
        return
    storage = storage_of(session, project, policy)
    left = None if storage.left is None else storage.left + instead_of
    if left is None or size <= left:
        return
    raise _full(
        project,
        storage,
        f"{key!r} has {amount(size)}, and project {project.name} has {amount(left)} left of the "
        f"{amount(storage.limit)} that it may keep",
        left=left,
        this_upload=size,
    )


def check_upload_locked(session: Session, project_id: int, policy: JobPolicy, key: str, size: int) -> None:
    """The same, and other uploads of the project wait for the end of the caller's transaction: two that fit one at a
    time do not fit together."""
    if policy.project_bytes is None and session.get_one(ProjectRow, project_id).max_bytes is None:
        return
    check_upload(session, lock_project(session, project_id), policy, key, size)


def check_not_full(session: Session, project: ProjectRow, policy: JobPolicy) -> None:
    """Make sure that there is any room left for a job's result, whose size nobody knows beforehand.

    Raises:
        StorageFull: there is none.
    """
    if limit_of(project, policy) is None:
        return
    storage = storage_of(session, project, policy)
    if storage.left == 0:
        words = f"Project {project.name} keeps all of the {amount(storage.limit)} that it may"
        raise _full(project, storage, words, left=0, this_upload=None)


def warnings_for(session: Session, project: ProjectRow, policy: JobPolicy, bytes_needed: int) -> tuple[str, ...]:
    """What a plan that reads so many bytes has to say of the room for its result."""
    if limit_of(project, policy) is None:
        return ()
    storage = storage_of(session, project, policy)
    if storage.left == 0:
        return (f"It would be refused. Project {project.name} keeps all of the {amount(storage.limit)} that it may.",)
    if storage.left is not None and storage.left < bytes_needed:
        return (
            f"Project {project.name} has {amount(storage.left)} left of the {amount(storage.limit)} that it may keep, "
            f"and this reads {amount(bytes_needed)}: should the result be larger than what is left, it is kept, and "
            "nothing more can be uploaded or asked.",
        )
    return ()


def amount(size: int | None) -> str:
    """`1.5 GB`, in powers of 1000."""
    value, unit = Decimal(size or 0), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.4g} {_UNITS[unit]}" if unit else f"{value} {_UNITS[unit]}"


def _full(project: ProjectRow, storage: Storage, words: str, *, left: int, this_upload: int | None) -> StorageFull:
    stored = storage.stored
    kept = [
        ("files", stored.files),
        ("older versions and deleted files", stored.older_versions),
        ("BCF copies", stored.copies),
        ("results", stored.results),
        ("indexes, logs and provenance", stored.indexes + stored.records),
        ("uploads under way", stored.open_uploads),
    ]
    used = ", ".join(f"{name} {amount(size)}" for name, size in kept if size)
    return StorageFull(
        f"{words}: {used}." if used else f"{words}.",
        hint=_what_helps(project, stored),
        details={
            "project": project.name,
            "what": "bytes",
            "used": stored.total - stored.open_uploads,
            "committed": stored.open_uploads,
            "this_upload": this_upload,
            "limit": storage.limit,
            "left": left,
        },
    )


def _what_helps(project: ProjectRow, stored: Stored) -> str:
    ways = []
    if stored.results:
        ways.append(f"`divbase projects retention set {project.name} --days N` lets old results go")
    if stored.copies:
        ways.append(f"`divbase projects edit {project.name} --no-sidecars` removes the BCF copies")
    if stored.open_uploads:
        ways.append("uploads that nobody goes on with are given up after seven days")
    ways.append(f"a site admin allows more: `divbase projects allocation set {project.name} --max-size …`")
    return f"What helps: {'; '.join(ways)}."
