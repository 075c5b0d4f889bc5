"""Users: who they are and what site admins change about them. It knows nothing of keys, projects or requests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from divbase_gateway.db import users as rows
from divbase_gateway.db.models import UserRow
from divbase_gateway.domain.errors import Conflict, NotFound
from divbase_gateway.domain.ids import new_id
from divbase_gateway.domain.users import normalise_email


def create_user(session: Session, email: str, name: str, is_admin: bool, now: datetime) -> UserRow:
    """Add a user.

    Raises:
        InvalidName: `email` is no address.
        Conflict: there is a user with this address.
    """
    address = normalise_email(email)
    row = UserRow(public_id=new_id(), email=address, name=name, is_admin=is_admin, active=True, created_at=now)
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError as error:
        raise Conflict(
            f"There is a user {address} already.",
            hint="`divbase users ls` lists them; a deactivated one can be activated again.",
            details={"email": address},
        ) from error
    return row


def get_user(session: Session, name: str) -> UserRow:
    """The user of this id or email address.

    Raises:
        NotFound: there is none.
    """
    row = rows.find_user(session, name.strip().lower())
    if row is None:
        raise NotFound(f"There is no user {name!r}.", hint="A site admin adds users: `divbase users add EMAIL`.")
    return row


def list_users(session: Session, after_email: str | None, limit: int) -> Sequence[UserRow]:
    """Users by email address, deactivated ones too."""
    return rows.list_users(session, after_email, limit)


def change_user(
    session: Session, name: str, *, new_name: str | None, is_admin: bool | None, active: bool | None
) -> UserRow:
    """Change what is not None.

    Raises:
        NotFound: there is no such user.
        Conflict: the site would be left without an active admin.
    """
    row = get_user(session, name)
    if (is_admin is False or active is False) and [admin.id for admin in rows.active_admins(session)] == [row.id]:
        raise Conflict(
            f"{row.email} is the only active site admin.", hint="Make somebody else a site admin first.", details={}
        )
    row.name = row.name if new_name is None else new_name
    row.is_admin = row.is_admin if is_admin is None else is_admin
    row.active = row.active if active is None else active
    session.flush()
    return row


def first_admin(session: Session) -> UserRow | None:
    """The oldest active site admin, None on a site that was not set up yet."""
    return next(iter(rows.active_admins(session, limit=1)), None)
