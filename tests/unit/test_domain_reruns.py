"""What another run asks for: as before, what somebody says, or double of what ran out."""

from __future__ import annotations

import pytest
from divbase_gateway.domain.allocations import Resources
from divbase_gateway.domain.errors import Conflict, InvalidRequest
from divbase_gateway.domain.estimates import MAX_MINUTES
from divbase_gateway.domain.reruns import Wish, more_would_help, next_resources

PLANNED = Resources(cores=2, memory_mb=1024, minutes=30)
LAST = Resources(cores=2, memory_mb=2048, minutes=60)


def asked(wish: Wish, reason: str | None = None, last: Resources = LAST) -> Resources:
    return next_resources("j1", PLANNED, last, reason, wish)


def test_no_wish_keeps_what_the_last_run_had() -> None:
    """Guards: a rerun does not fall back to what was too little."""
    assert asked(Wish(), "node_failed") == LAST


def test_numbers_are_taken_as_they_are() -> None:
    """Guards: one of them alone leaves the other, and less than the last run had is allowed."""
    assert asked(Wish(memory_mb=8192)) == Resources(2, 8192, 60)
    assert asked(Wish(minutes=45)) == Resources(2, 2048, 45)


def test_less_than_the_plan_needs_is_refused_with_the_numbers() -> None:
    """Guards: no run that must fail."""
    with pytest.raises(InvalidRequest) as refused:
        asked(Wish(memory_mb=512))
    assert "1024 MB of memory and 30 minutes" in refused.value.message
    assert "--memory 1024M --time 30m" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("reason", "given"),
    [("out_of_memory", Resources(2, 4096, 60)), ("timed_out", Resources(2, 2048, 120))],
)
def test_more_doubles_what_ran_out(reason: str, given: Resources) -> None:
    """Guards: memory after out of memory, time after a timeout, and nothing else."""
    assert asked(Wish(more=True), reason) == given


def test_doubling_has_an_end() -> None:
    """Guards: sixteen times the plan's memory or time, and never more than the longest job, then words."""
    assert asked(Wish(more=True), "out_of_memory", Resources(2, 10_000, 60)).memory_mb == 16 * 1024
    with pytest.raises(Conflict, match="as far as doubling goes"):
        asked(Wish(more=True), "out_of_memory", Resources(2, 16 * 1024, 60))
    week = Resources(2, 1024, MAX_MINUTES)
    with pytest.raises(Conflict, match=f"had {MAX_MINUTES} minutes already"):
        next_resources("j1", week, week, "timed_out", Wish(more=True))


@pytest.mark.parametrize("reason", ["bcftools_failed", "cancelled", None])
def test_more_of_what_did_not_run_out_is_refused(reason: str | None) -> None:
    """Guards: `--more` is no way to try again louder."""
    with pytest.raises(Conflict, match="ran out of neither memory nor time") as refused:
        asked(Wish(more=True), reason)
    assert "divbase jobs rerun j1" in (refused.value.hint or "")


def test_a_number_and_more_contradict_each_other() -> None:
    """Guards: what is asked for is never guessed."""
    with pytest.raises(InvalidRequest, match="not for both"):
        asked(Wish(memory_mb=4096, more=True), "out_of_memory")


def test_only_who_ran_out_is_told_of_more() -> None:
    """Guards: the message names a command that would work."""
    assert more_would_help("j1", "out_of_memory") == "`divbase jobs rerun j1 --more` asks for double."
    assert more_would_help("j1", "timed_out") != ""
    assert more_would_help("j1", "disk_full") == ""
