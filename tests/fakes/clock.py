"""A clock that stands still until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class FakeClock:
    """The `Clock` port, at 2025-06-01 12:00 UTC to begin with."""

    def __init__(self, at: datetime = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)):
        self._now = at

    def now(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> None:
        self._now += by
