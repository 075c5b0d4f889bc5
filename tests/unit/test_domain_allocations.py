"""The rules of ceilings, limits and months: whose number holds, what is capped, and what fits in what is left."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from divbase_gateway.domain.allocations import Ceilings, CoreHours, Labels, Limits, Month, Resources

ASKED = Resources(cores=4, memory_mb=2048, minutes=90)


def test_a_project_s_own_word_wins_over_the_site_s() -> None:
    """In everything, and where it has none the site's holds."""
    assert Labels("own", qos="fast").over(Labels("site", "main")) == Labels("own", "main", "fast")
    assert Ceilings(8, minutes=1).over(Ceilings(2, 1024)) == Ceilings(8, 1024, 1)
    assert Limits(core_hours=0.0).over(Limits(3, 10.0)) == Limits(3, 0.0)


def test_zero_is_a_number_of_the_project_s_own() -> None:
    """A project whose jobs are stopped is not let through by the site's number."""
    assert Limits(open_jobs=0).over(Limits(open_jobs=5)).open_jobs == 0


@pytest.mark.parametrize(("ceiling", "given"), [(None, 4), (8, 4), (4, 4), (1, 1)])
def test_cores_are_capped(ceiling: int | None, given: int) -> None:
    """Fewer cores make a job slower, not wrong; memory and time are not touched."""
    assert Ceilings(cores=ceiling, memory_mb=1, minutes=1).cap(ASKED) == Resources(given, 2048, 90)


def test_memory_and_minutes_beyond_the_ceiling_are_named_with_both_numbers() -> None:
    """What is asked and what is the most, for each that is too much."""
    excesses = list(Ceilings(cores=1, memory_mb=2047, minutes=60).excesses(ASKED))
    assert [str(each) for each in excesses] == [
        "2048 MB of memory, where 2047 are the most",
        "90 minutes, where 60 are the most",
    ]


def test_exactly_the_ceiling_is_allowed() -> None:
    """The most that one may ask for can be asked for."""
    assert list(Ceilings(memory_mb=2048, minutes=90).excesses(ASKED)) == []


def test_a_job_s_worst_case_is_all_cores_until_its_time_limit() -> None:
    """4 cores for 90 minutes."""
    assert ASKED.core_hours == 6.0


@pytest.mark.parametrize(
    ("used", "committed", "more", "fits"),
    [(4.0, 2.0, 4.0, True), (4.0, 2.0, 4.01, False), (9.9, 0.0, 0.1, True), (12.0, 0.0, 0.1, False)],
)
def test_a_job_fits_in_what_is_left(used: float, committed: float, more: float, fits: bool) -> None:
    """What was used, what open jobs may use and this job's worst case stay within the limit together."""
    assert CoreHours(used, committed, 10.0).allow(more) is fits


def test_what_is_left_is_never_negative() -> None:
    """A limit that was lowered below what was used leaves nothing."""
    assert CoreHours(12.0, 1.0, 10.0).left == 0.0
    assert CoreHours(12.0, 1.0, None).left is None


def test_a_month_ends_where_the_next_begins() -> None:
    """December too."""
    month = Month.parse("2025-12")
    assert (month.start, month.end) == (datetime(2025, 12, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
    assert str(Month.parse("2025-06")) == "2025-06"


def test_months_are_of_utc() -> None:
    """The first hour of a month east of Greenwich belongs to the month before."""
    assert str(Month.of(datetime(2025, 6, 1, 0, 30, tzinfo=timezone(timedelta(hours=2))))) == "2025-05"


@pytest.mark.parametrize("text", ["2025-13", "2025", "June"])
def test_what_is_no_month_is_an_error(text: str) -> None:
    """Not another month."""
    with pytest.raises(ValueError):
        Month.parse(text)
