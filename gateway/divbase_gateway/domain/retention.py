"""How long the results of a project's jobs are kept, and from when on their end is announced. Pure rules over times;
who looks at the clock, and what is removed, is not known here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

MOST_DAYS = 3650
FOR_EVER = 0
"""A project's own number of days where its results are kept for ever, whatever the site says."""

GRACE = timedelta(days=7)
"""Nothing is removed sooner after its project's retention was shortened, or after nobody could have been warned."""

_NOTICE = timedelta(days=7)
_ABSENCE = timedelta(days=1)
"""A gateway that was away for longer has shown nobody what was about to be removed."""

_NOTE_USE = timedelta(days=1)


@dataclass(frozen=True)
class Retention:
    """What holds for a project's results.

    Attributes:
        days: from the last use of a result to its removal; None keeps it for ever.
        since: when the latest grace began; None where there never was any.
    """

    days: int | None = None
    since: datetime | None = None

    @property
    def notice(self) -> timedelta:
        """How long before its end a result is called one that ends soon."""
        return min(_NOTICE, self._length / 2)

    def expiry(self, used_at: datetime) -> datetime | None:
        """When a result may be removed that was last used, or made, at this time; None: never."""
        if self.days is None:
            return None
        due = used_at + self._length
        return due if self.since is None else max(due, self.since + GRACE)

    def warn_from(self, used_at: datetime) -> datetime | None:
        """From when on its owner is warned: ahead of its end, and all of a grace that it owes its life to."""
        expiry = self.expiry(used_at)
        if expiry is None:
            return None
        notice = expiry - self.notice
        owes = self.since is not None and used_at + self._length < expiry
        return min(notice, self.since) if owes and self.since is not None else notice

    def last_use_due(self, now: datetime) -> datetime | None:
        """What was last used at or before this time is due; None: nothing is."""
        if self.days is None or (self.since is not None and now < self.since + GRACE):
            return None
        return now - self._length

    def is_use_news(self, used_at: datetime, now: datetime) -> bool:
        """Whether another use is worth writing down: once a day, and more often only where days are few."""
        return now - used_at >= min(_NOTE_USE, self._length / 4)

    @property
    def _length(self) -> timedelta:
        return timedelta(days=MOST_DAYS if self.days is None else self.days)


def days_in_force(own: int | None, site: int | None) -> int | None:
    """The project's own number, else the site's; None for ever."""
    chosen = site if own is None else own
    return None if chosen in (None, FOR_EVER) else chosen


def follow(held: Retention, seen_at: datetime | None, wanted: int | None, now: datetime) -> Retention:
    """What holds from now on: a grace begins where days get fewer, and where nobody looked for long.

    Args:
        held: what held until now; `seen_at` is when the gateway last looked.
        wanted: days, None for ever.
    """
    if wanted is None:
        return Retention()
    fewer = held.days is None or wanted < held.days
    unseen = seen_at is None or now - seen_at > _ABSENCE
    return Retention(wanted, now if fewer or unseen else held.since)
