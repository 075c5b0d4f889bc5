"""Projects: making them with their bucket, and who their members are. It knows nothing of files or requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from divbase_gateway.db import projects as rows
from divbase_gateway.db.models import MembershipRow, ProjectRow, UserRow
from divbase_gateway.domain.errors import Conflict, InvalidName, NotFound
from divbase_gateway.domain.projects import Role, bucket_name, validate_project_name
from divbase_gateway.ports import ObjectStore
from divbase_gateway.services.keys import Caller
from divbase_gateway.services.users import get_user


@dataclass(frozen=True)
class ProjectSummary:
    """A project as one user sees it. `files` are its live files, `bytes` their newest versions' sizes together."""

    project: ProjectRow
    role: Role
    files: int
    bytes: int


@dataclass(frozen=True)
class Member:
    """One user's role in one project."""

    project: ProjectRow
    user: UserRow
    role: Role


def create_project(
    session: Session,
    store: ObjectStore,
    caller: Caller,
    name: str,
    description: str,
    bucket: str | None,
    bucket_prefix: str,
    now: datetime,
) -> ProjectSummary:
    """Make a project with a new bucket, or adopt `bucket`; versioning is switched on either way.

    Whoever makes it is its first member, with the role MANAGE.

    Raises:
        InvalidName: the name cannot name a project, or the bucket's name no bucket.
        Conflict: the name, or the bucket, is another project's.
        NotFound: there is no bucket to adopt.
        StoreUnavailable: S3 does not answer; nothing was made.
    """
    validate_project_name(name)
    target = _checked_bucket(bucket) if bucket is not None else bucket_name(bucket_prefix, name)
    project = ProjectRow(name=name, description=description, bucket=target, created_at=now)
    try:
        with session.begin_nested():
            session.add(project)
    except IntegrityError as error:
        raise _taken(session, name, target) from error
    session.add(MembershipRow(project_id=project.id, user_id=caller.user.id, role=Role.MANAGE.value))
    session.flush()
    # Last, because it cannot be rolled back. A bucket left over by a commit that failed is adopted the next time.
    if bucket is not None:
        _require_bucket(store, bucket)
    store.ensure_bucket(target)
    return ProjectSummary(project, Role.MANAGE, 0, 0)


def list_projects(session: Session, caller: Caller, after_name: str | None, limit: int) -> list[ProjectSummary]:
    """The caller's projects by name; a site admin's are all."""
    found = rows.list_projects(session, caller.user.id, caller.user.is_admin, after_name, limit)
    return [_summary(counted, caller) for counted in found]


def get_project(session: Session, caller: Caller) -> ProjectSummary:
    """The caller's project with its numbers."""
    return _summary(rows.count_project(session, caller.user.id, caller.project.id), caller)


def change_project(
    session: Session, caller: Caller, description: str | None, sidecars: bool | None = None
) -> ProjectSummary:
    """Change what is not None. `sidecars`: whether there are to be BCF copies of its files."""
    row = session.get_one(ProjectRow, caller.project.id)
    row.description = row.description if description is None else description
    row.sidecars = row.sidecars if sidecars is None else sidecars
    session.flush()
    return get_project(session, caller)


def list_members(session: Session, project: ProjectRow, after_email: str | None, limit: int) -> list[Member]:
    """Members by email address."""
    found = rows.list_members(session, project.id, after_email, limit)
    return [Member(project, row.user, Role(row.role)) for row in found]


def memberships_of(session: Session, user: UserRow) -> Sequence[Member]:
    """Where the user is a member, by project name."""
    return [Member(row.project, user, Role(row.role)) for row in rows.memberships_of(session, user.id)]


def set_member(session: Session, project: ProjectRow, email: str, role: Role) -> Member:
    """Make the user a member with this role, or change the role they have.

    Raises:
        NotFound: there is no such user.
    """
    user = get_user(session, email)
    session.merge(MembershipRow(project_id=project.id, user_id=user.id, role=role.value))
    session.flush()
    return Member(project, user, role)


def remove_member(session: Session, project: ProjectRow, email: str) -> None:
    """End a membership.

    Raises:
        NotFound: there is no such user, or they are no member.
    """
    user = get_user(session, email)
    if rows.find_member(session, project.id, user.id) is None:
        raise NotFound(f"{user.email} is not a member of {project.name!r}.", hint="`divbase members ls` lists them.")
    rows.remove_member(session, project.id, user.id)


def _summary(counted: rows.CountedProject, caller: Caller) -> ProjectSummary:
    role = Role.MANAGE if caller.user.is_admin else Role(counted.role or Role.READ)
    return ProjectSummary(counted.project, role, counted.files, counted.bytes)


def _checked_bucket(name: str) -> str:
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    if not 3 <= len(name) <= 63 or not set(name) <= allowed or name[0] in ".-" or name[-1] in ".-":
        raise InvalidName(
            f"{name!r} cannot name a bucket.",
            hint="Bucket names have 3 to 63 lower-case letters, digits, '.' and '-'.",
            details={"name": name},
        )
    return name


def _require_bucket(store: ObjectStore, bucket: str) -> None:
    """Adopting is for what is there: a misspelt name must not make a bucket. Listing one entry tells."""
    next(iter(store.list_objects(bucket)), None)


def _taken(session: Session, name: str, bucket: str) -> Conflict:
    if rows.find_project(session, name) is not None:
        return Conflict(f"There is a project {name!r} already.", hint="Choose another name.", details={"name": name})
    return Conflict(
        f"The bucket {bucket!r} belongs to another project.", hint="Choose another bucket.", details={"bucket": bucket}
    )
