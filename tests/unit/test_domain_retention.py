"""When results are removed and from when on that is announced: the dates, written out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from divbase_gateway.domain.retention import FOR_EVER, GRACE, Retention, days_in_force, follow

DAY = timedelta(days=1)
NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)


def june(day: int, hour: int = 12) -> datetime:
    return datetime(2025, 6, day, hour, tzinfo=UTC)


def test_for_ever_has_no_end() -> None:
    """Guards: without a number of days nothing is removed and nobody is warned."""
    kept = Retention()
    assert (kept.expiry(NOW), kept.warn_from(NOW), kept.last_use_due(NOW + 10_000 * DAY)) == (None, None, None)


@pytest.mark.parametrize(
    ("days", "expires", "warned"),
    [(1, june(2), june(2, 0)), (10, june(11), june(6)), (14, june(15), june(8)), (29, june(30), june(23))],
)
def test_the_end_is_so_many_days_after_the_last_use(days: int, expires: datetime, warned: datetime) -> None:
    """Guards: a week's warning, or half of a short retention."""
    kept = Retention(days)
    assert (kept.expiry(NOW), kept.warn_from(NOW)) == (expires, warned)


@pytest.mark.parametrize("days", [1, 3, 30, 3650])
def test_what_is_due_and_what_expires_are_the_same(days: int) -> None:
    """Guards: what is removed at a moment is what was said to end by then, to the second and on either side of it."""
    for since in (None, NOW - 3 * DAY, NOW - 8 * DAY):
        kept = Retention(days, since)
        for used_at in (NOW - (days + 20) * DAY, NOW - days * DAY, NOW):
            expiry = kept.expiry(used_at)
            assert expiry is not None
            for moment in (expiry - timedelta(seconds=1), expiry, expiry + timedelta(seconds=1)):
                due = kept.last_use_due(moment)
                assert (due is not None and used_at <= due) == (moment >= expiry)


def test_a_warning_comes_before_every_end() -> None:
    """Guards: half a day at least, whatever the days and however old the result."""
    for days in range(1, 40):
        for age in range(80):
            kept, used_at = Retention(days, NOW), NOW - age * DAY
            warned, expiry = kept.warn_from(used_at), kept.expiry(used_at)
            assert warned is not None
            assert expiry is not None
            assert expiry - warned >= DAY / 2
            assert expiry >= NOW + GRACE


def test_what_lives_by_the_grace_is_warned_of_all_of_it() -> None:
    """Guards: what a change makes due at once is announced from the change on, also where days are few."""
    old = NOW - 100 * DAY
    assert Retention(1, NOW).warn_from(old) == NOW
    assert Retention(1, NOW).expiry(old) == june(8)
    assert Retention(1, NOW).warn_from(june(20)) == june(21, 0)


@pytest.mark.parametrize(
    ("own", "site", "holds"),
    [(None, None, None), (None, 90, 90), (30, 90, 30), (365, 90, 365), (FOR_EVER, 90, None), (30, None, 30)],
)
def test_the_project_s_own_number_comes_before_the_site_s(own: int | None, site: int | None, holds: int | None) -> None:
    """Guards: also where it says for ever."""
    assert days_in_force(own, site) == holds


@pytest.mark.parametrize(
    ("held", "wanted", "since"),
    [
        (Retention(), 30, NOW),  # it was for ever
        (Retention(60, june(1) - 50 * DAY), 30, NOW),
        (Retention(30, june(1) - 50 * DAY), 30, june(1) - 50 * DAY),
        (Retention(30, june(1) - 50 * DAY), 60, june(1) - 50 * DAY),
        (Retention(30, None), 60, None),
    ],
)
def test_a_grace_begins_where_days_get_fewer(held: Retention, wanted: int, since: datetime | None) -> None:
    """Guards: never where they stay or get more, so that a look an hour puts nothing off."""
    assert follow(held, NOW - timedelta(hours=1), wanted, NOW) == Retention(wanted, since)


def test_to_keep_for_ever_forgets_the_rest() -> None:
    """Guards: to shorten it later is a change, with its grace."""
    assert follow(Retention(30, NOW), NOW, None, NOW) == Retention()


@pytest.mark.parametrize(("away", "since"), [(timedelta(hours=23), None), (timedelta(hours=25), NOW)])
def test_a_gateway_that_was_away_warns_first(away: timedelta, since: datetime | None) -> None:
    """Guards: what came to its end while nobody could be shown a warning is not removed at the start."""
    assert follow(Retention(30), NOW - away, 30, NOW) == Retention(30, since)


@pytest.mark.parametrize(("days", "between"), [(1, timedelta(hours=6)), (4, DAY), (3650, DAY)])
def test_uses_are_noted_once_a_day(days: int, between: timedelta) -> None:
    """Guards: and more often only where a day is a good part of all that a result has."""
    kept = Retention(days)
    assert not kept.is_use_news(NOW, NOW + between - timedelta(seconds=1))
    assert kept.is_use_news(NOW, NOW + between)
