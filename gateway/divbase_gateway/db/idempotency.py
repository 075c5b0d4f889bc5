"""Queries over the answers kept for repeated requests. It knows users and keys, not what was asked or answered."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CursorResult, delete, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from divbase_gateway.db.models import IdempotencyRow

PENDING = 0
"""The status of a row whose request is being carried out; no other transaction ever sees it."""


def claim(session: Session, user_id: int, key: str, fingerprint: str, now: datetime) -> bool:
    """Insert the row of this user and key, and say whether that worked. False: there is one.

    Where another transaction has inserted it and not ended yet, this waits for that end: on PostgreSQL in the unique
    index, on SQLite already at the begin of the transaction.
    """
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = insert(IdempotencyRow).values(
        user_id=user_id, key=key, fingerprint=fingerprint, status=PENDING, body=None, created_at=now
    )
    inserted = session.scalar(statement.on_conflict_do_nothing().returning(IdempotencyRow.key))
    return inserted is not None


def get(session: Session, user_id: int, key: str) -> IdempotencyRow:
    """The row that `claim` met."""
    return session.get_one(IdempotencyRow, (user_id, key))


def find(session: Session, user_id: int, key: str) -> IdempotencyRow | None:
    return session.get(IdempotencyRow, (user_id, key))


def settle(session: Session, user_id: int, key: str, status: int, body: str | None) -> None:
    """Keep the answer."""
    session.execute(
        update(IdempotencyRow)
        .where(IdempotencyRow.user_id == user_id, IdempotencyRow.key == key)
        .values(status=status, body=body)
        .execution_options(synchronize_session=False)
    )


def purge(session: Session, before: datetime) -> int:
    """Forget what was answered before a time, and say how many."""
    result = session.execute(
        delete(IdempotencyRow).where(IdempotencyRow.created_at < before).execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)  # noqa: S101 - what a delete gives
    return result.rowcount
