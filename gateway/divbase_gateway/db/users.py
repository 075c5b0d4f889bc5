"""Queries over users. It returns rows and decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from divbase_gateway.db.models import UserRow


def find_user(session: Session, name: str) -> UserRow | None:
    """The user of this public id or (lower-case) email address."""
    return session.scalar(select(UserRow).where(or_(UserRow.public_id == name, UserRow.email == name)))


def list_users(session: Session, after_email: str | None, limit: int) -> Sequence[UserRow]:
    """Users by email address."""
    query = select(UserRow).order_by(UserRow.email).limit(limit)
    if after_email is not None:
        query = query.where(UserRow.email > after_email)
    return session.scalars(query).all()


def active_admins(session: Session, limit: int = 2) -> Sequence[UserRow]:
    """Some of the site's active admins, the oldest first."""
    query = select(UserRow).where(UserRow.is_admin, UserRow.active).order_by(UserRow.id).limit(limit)
    return session.scalars(query).all()
