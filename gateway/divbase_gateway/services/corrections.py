"""What earlier jobs of this site say of the cost model; read again now and then, not for each plan."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from divbase_gateway.db import usage as rows
from divbase_gateway.db.session import Database
from divbase_gateway.domain.corrections import MOST, Correction, Run, learn

_GOOD_FOR = timedelta(minutes=5)


class Corrections:
    """The correction as it was a few minutes ago at most."""

    def __init__(self) -> None:
        self._correction = Correction()
        self._read_at: datetime | None = None
        self._lock = threading.Lock()

    def current(self, database: Database, now: datetime) -> Correction:
        """What the latest jobs say; one indexed query where that is not at hand."""
        with self._lock:
            if self._read_at is None or not timedelta() <= now - self._read_at < _GOOD_FOR:
                with database.read() as session:
                    self._correction = learn(latest_runs(session))
                self._read_at = now
            return self._correction


def latest_runs(session: Session) -> list[Run]:
    """The latest attempts that succeeded and that the cost model said enough of, newest first."""
    return [Run(*row) for row in rows.latest_timed(session, MOST)]
