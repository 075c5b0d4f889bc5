"""Queries over API keys. It returns rows and judges nothing: whether a key is good is decided in `services.keys`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import String, and_, bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from divbase_gateway.db.models import ApiKeyRow, MembershipRow, ProjectRow, UserRow


class KeyHolder(NamedTuple):
    """A key, its user, and what the user is in one project (both None without a project of that name)."""

    key: ApiKeyRow
    user: UserRow
    project: ProjectRow | None
    role: str | None


# Built once: every request asks this, and making the statement takes as long as running it.
_OF_PREFIX = (
    select(ApiKeyRow, UserRow)
    .join(UserRow, UserRow.id == ApiKeyRow.user_id)
    .where(ApiKeyRow.prefix == bindparam("prefix", type_=String))
)
_OF_PREFIX_IN_PROJECT = (
    _OF_PREFIX.add_columns(ProjectRow, MembershipRow.role)
    .outerjoin(ProjectRow, ProjectRow.name == bindparam("project", type_=String))
    .outerjoin(
        MembershipRow, and_(MembershipRow.project_id == ProjectRow.id, MembershipRow.user_id == ApiKeyRow.user_id)
    )
)


def find_holder(session: Session, prefix: str, project: str | None) -> KeyHolder | None:
    """The key of this prefix with its user and, in the same query, the project and the user's role in it."""
    if project is None:
        pair = session.execute(_OF_PREFIX, {"prefix": prefix}).one_or_none()
        return None if pair is None else KeyHolder(pair[0], pair[1], None, None)
    row = session.execute(_OF_PREFIX_IN_PROJECT, {"prefix": prefix, "project": project}).one_or_none()
    return None if row is None else KeyHolder(row[0], row[1], row[2], row[3])


def list_keys(session: Session, user_id: int, after_id: int | None, limit: int) -> Sequence[ApiKeyRow]:
    """The user's keys, newest first, revoked ones too."""
    query = select(ApiKeyRow).where(ApiKeyRow.user_id == user_id).order_by(ApiKeyRow.id.desc()).limit(limit)
    if after_id is not None:
        query = query.where(ApiKeyRow.id < after_id)
    return session.scalars(query).all()


def find_key(session: Session, name: str) -> ApiKeyRow | None:
    """The key of this public id or prefix."""
    return session.scalar(select(ApiKeyRow).where(or_(ApiKeyRow.public_id == name, ApiKeyRow.prefix == name)))


def count_open_keys(session: Session, user_id: int, now: datetime) -> int:
    """Keys of the user that are neither revoked nor expired."""
    query = select(func.count()).where(
        ApiKeyRow.user_id == user_id,
        ApiKeyRow.revoked_at.is_(None),
        or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now),
    )
    return session.scalar(query) or 0


def touch(session: Session, key_id: int, now: datetime, unless_since: datetime) -> None:
    """Note that the key was used `now`, unless that was noted after `unless_since`."""
    session.execute(
        update(ApiKeyRow)
        .where(ApiKeyRow.id == key_id, or_(ApiKeyRow.last_used_at.is_(None), ApiKeyRow.last_used_at <= unless_since))
        .values(last_used_at=now)
        .execution_options(synchronize_session=False)
    )
