"""Queries over projects and their members. It returns rows and numbers and decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Row, Select, delete, func, select
from sqlalchemy.orm import Session, contains_eager

from divbase_gateway.db.models import FileRow, FileVersionRow, MembershipRow, ProjectRow, UserRow


class CountedProject(NamedTuple):
    """A project with the caller's stored role (None: no member), its live files and their newest versions' bytes."""

    project: ProjectRow
    role: str | None
    files: int
    bytes: int


def list_projects(
    session: Session, user_id: int, everyones: bool, after_name: str | None, limit: int
) -> Sequence[CountedProject]:
    """Projects by name: those of the user, or all (`everyones`)."""
    query = _counted(user_id).order_by(ProjectRow.name).limit(limit)
    if not everyones:
        query = query.where(MembershipRow.role.is_not(None))
    if after_name is not None:
        query = query.where(ProjectRow.name > after_name)
    return [_numbers(row) for row in session.execute(query)]


def count_project(session: Session, user_id: int, project_id: int) -> CountedProject:
    """One project with its numbers."""
    return _numbers(session.execute(_counted(user_id).where(ProjectRow.id == project_id)).one())


def find_project(session: Session, name: str) -> ProjectRow | None:
    return session.scalar(select(ProjectRow).where(ProjectRow.name == name))


def any_bucket(session: Session) -> str | None:
    """The bucket of the oldest project; None where there is no project."""
    return session.scalar(select(ProjectRow.bucket).order_by(ProjectRow.id).limit(1))


def list_members(session: Session, project_id: int, after_email: str | None, limit: int) -> Sequence[MembershipRow]:
    """Members by email address, each with its user."""
    query = (
        select(MembershipRow)
        .join(MembershipRow.user)
        .options(contains_eager(MembershipRow.user))
        .where(MembershipRow.project_id == project_id)
        .order_by(UserRow.email)
        .limit(limit)
    )
    if after_email is not None:
        query = query.where(UserRow.email > after_email)
    return session.scalars(query).all()


def memberships_of(session: Session, user_id: int) -> Sequence[MembershipRow]:
    """The user's memberships by project name, each with its project."""
    query = (
        select(MembershipRow)
        .join(MembershipRow.project)
        .options(contains_eager(MembershipRow.project))
        .where(MembershipRow.user_id == user_id)
        .order_by(ProjectRow.name)
    )
    return session.scalars(query).all()


def find_member(session: Session, project_id: int, user_id: int) -> MembershipRow | None:
    return session.get(MembershipRow, (project_id, user_id))


def remove_member(session: Session, project_id: int, user_id: int) -> None:
    session.execute(
        delete(MembershipRow).where(MembershipRow.project_id == project_id, MembershipRow.user_id == user_id)
    )


def _numbers(row: Row[*tuple[Any, ...]]) -> CountedProject:
    return CountedProject(row[0], row[1], row[2], int(row[3]))


def _counted(user_id: int) -> Select[*tuple[Any, ...]]:
    totals = (
        select(
            FileRow.project_id.label("project_id"),
            func.count().label("files"),
            func.sum(FileVersionRow.size).label("bytes"),
        )
        .join(FileVersionRow, FileVersionRow.id == FileRow.current_id)
        .where(FileRow.deleted_at.is_(None))
        .group_by(FileRow.project_id)
        .subquery()
    )
    return (
        select(ProjectRow, MembershipRow.role, func.coalesce(totals.c.files, 0), func.coalesce(totals.c.bytes, 0))
        .outerjoin(MembershipRow, (MembershipRow.project_id == ProjectRow.id) & (MembershipRow.user_id == user_id))
        .outerjoin(totals, totals.c.project_id == ProjectRow.id)
    )
