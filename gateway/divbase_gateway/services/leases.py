"""Who leads: a named lease in the database that one holder has until it expires or is released."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, insert, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from divbase_gateway.db.models import LeaseRow


def acquire(session: Session, name: str, holder: str, now: datetime, duration: timedelta) -> bool:
    """Take or renew the lease; False while another holder's has not expired."""
    renewed = session.execute(
        update(LeaseRow)
        .where(LeaseRow.name == name, (LeaseRow.holder == holder) | (LeaseRow.expires_at < now))
        .values(holder=holder, expires_at=now + duration)
        .execution_options(synchronize_session=False)
    )
    if renewed.rowcount:  # type: ignore[attr-defined]
        return True
    try:
        with session.begin_nested():
            session.execute(insert(LeaseRow).values(name=name, holder=holder, expires_at=now + duration))
    except IntegrityError:
        return False
    return True


def release(session: Session, name: str, holder: str) -> None:
    """Let the next one have it at once."""
    session.execute(delete(LeaseRow).where(LeaseRow.name == name, LeaseRow.holder == holder))
