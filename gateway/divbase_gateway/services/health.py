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
SCHEDULER_CACHED_FOR = timedelta(seconds=30)
"""While it is well: a ping is two of the commands of which a cluster answers a user only so many."""


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
    """What was found the last time, good for some seconds: many who ask do not become many pings."""

    database: Database
    store: ObjectStore
    scheduler: Scheduler
    clock: Clock
    _checks: list[Check] = field(default_factory=list)
    _checked_at: datetime | None = None
    _scheduler: tuple[Check, datetime] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def checks(self) -> list[Check]:
        """The checks, not older than five seconds, that of a scheduler that is well than thirty.

        Whoever asks while others are being made gets the last ones: a scheduler that does not answer for a minute
        must not hold up all of the gateway's threads.
        """
        if not self._lock.acquire(blocking=not self._checks):
            return self._checks
        try:
            now = self.clock.now()
            if self._checked_at is None or now - self._checked_at >= CACHED_FOR:
                self._checks = self._check(now)
                self._checked_at = now
            return self._checks
        finally:
            self._lock.release()

    def _check(self, now: datetime) -> list[Check]:
        database, store = check("database", self.database.ping), check("store", self.store.ping)
        last = self._scheduler
        if last is None or not last[0].ok or now - last[1] >= SCHEDULER_CACHED_FOR:
            self._scheduler = last = check("scheduler", self.scheduler.ping), now
        return [database, store, last[0], *check_drain(self.database)]
