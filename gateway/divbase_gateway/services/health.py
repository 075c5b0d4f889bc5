"""Whether what the gateway depends on answers. It pings through the ports and knows none of the adapters."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import DatabaseUnavailable, DivBaseError
from divbase_gateway.ports import Clock, ObjectStore, Scheduler
from divbase_gateway.services import drain

CACHED_FOR = timedelta(seconds=5)


@dataclass(frozen=True)
class Check:
    """One thing that was pinged: its own words, or what is wrong and what to do about it.

    `notable`: nothing is wrong, but whoever watches should read the words.
    """

    name: str
    ok: bool
    words: str
    hint: str | None = None
    notable: bool = False


def check(name: str, ping: Callable[[], str]) -> Check:
    """Ping once; an error of ours is the answer, any other is a fault and goes on up."""
    try:
        return Check(name, True, ping())
    except DivBaseError as error:
        return Check(name, False, error.message, error.hint)


def check_all(database: Database, store: ObjectStore, scheduler: Scheduler) -> list[Check]:
    """Database, store and scheduler, in this order."""
    return [check("database", database.ping), check("store", store.ping), check("scheduler", scheduler.ping)]


def check_drain(database: Database) -> list[Check]:
    """A line where submission is held back, which is no fault; none otherwise, or while the database is away."""
    try:
        with database.read() as session:
            held_back = drain.current(session)
    except DatabaseUnavailable:
        return []
    return [] if held_back is None else [Check("submission", True, held_back.words, notable=True)]


@dataclass
class Readiness:
    """What was found the last time, good for five seconds: many who ask do not become many pings."""

    database: Database
    store: ObjectStore
    scheduler: Scheduler
    clock: Clock
    _checks: list[Check] = field(default_factory=list)
    _checked_at: datetime | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def checks(self) -> list[Check]:
        """The checks, not older than five seconds."""
        with self._lock:
            now = self.clock.now()
            if self._checked_at is None or now - self._checked_at >= CACHED_FOR:
                self._checks = check_all(self.database, self.store, self.scheduler) + check_drain(self.database)
                self._checked_at = now
            return self._checks
