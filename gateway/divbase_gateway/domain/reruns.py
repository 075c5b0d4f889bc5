"""What another run of a job asks for: the same, what somebody says, or double of what ran out. Pure rules; whether
the project may have it is checked elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace

from divbase_gateway.domain.allocations import Resources
from divbase_gateway.domain.errors import Conflict, InvalidRequest
from divbase_gateway.domain.estimates import MAX_MINUTES
from divbase_gateway.domain.jobs import Reason

MOST_DOUBLED = 16
"""Times what the plan needs: if four doublings did not help, another will not, and somebody should look."""


@dataclass(frozen=True)
class Wish:
    """What is asked of another run. None keeps what the last one had; `more` doubles what ran out."""

    memory_mb: int | None = None
    minutes: int | None = None
    more: bool = False

    @property
    def is_none(self) -> bool:
        return self == Wish()


def next_resources(job_id: str, planned: Resources, last: Resources, reason: str | None, wish: Wish) -> Resources:
    """What the next run asks for, after one that ended for this reason.

    Raises:
        Conflict: more is wished for, and nothing ran out, or it has been doubled often enough.
        InvalidRequest: less is wished for than the plan needs, or both a number and double.
    """
    if wish.more:
        if wish.memory_mb is not None or wish.minutes is not None:
            raise InvalidRequest("Ask either for more, which is double, or for a number; not for both.")
        return _doubled(job_id, planned, last, reason)
    asked = Resources(
        cores=last.cores,
        memory_mb=last.memory_mb if wish.memory_mb is None else wish.memory_mb,
        minutes=last.minutes if wish.minutes is None else wish.minutes,
    )
    if asked.memory_mb < planned.memory_mb or asked.minutes < planned.minutes:
        raise InvalidRequest(
            f"The plan of job {job_id} needs {planned.memory_mb} MB of memory and {planned.minutes} minutes; less "
            "than that would fail.",
            hint=f"Ask for at least `--memory {planned.memory_mb}M --time {planned.minutes}m`, or leave them out.",
            details={"memory_mb": planned.memory_mb, "minutes": planned.minutes},
        )
    return asked


def _doubled(job_id: str, planned: Resources, last: Resources, reason: str | None) -> Resources:
    if reason == Reason.OUT_OF_MEMORY:
        most = MOST_DOUBLED * planned.memory_mb
        if last.memory_mb < most:
            return replace(last, memory_mb=min(2 * last.memory_mb, most))
        raise _enough(job_id, f"{last.memory_mb} MB of memory", f"--memory {2 * last.memory_mb}M")
    if reason == Reason.TIMED_OUT:
        most = min(MOST_DOUBLED * planned.minutes, MAX_MINUTES)
        if last.minutes < most:
            return replace(last, minutes=min(2 * last.minutes, most))
        raise _enough(job_id, f"{last.minutes} minutes", f"--time {2 * last.minutes}m")
    raise Conflict(
        f"Job {job_id} ran out of neither memory nor time ({reason or 'no reason is known'}), so more would not "
        "help it.",
        hint=f"`divbase jobs rerun {job_id}` runs it again as it was; --memory and --time ask for a number.",
        details={"reason": reason},
    )


def _enough(job_id: str, had: str, option: str) -> Conflict:
    return Conflict(
        f"Job {job_id} had {had} already, which is as far as doubling goes.",
        hint=f"Ask for fewer files, samples or regions, or for a number: `divbase jobs rerun {job_id} {option}`.",
    )


def more_is_known_to_help(reason: str | None) -> bool:
    """Whether something ran out that another run can be given more of."""
    return reason in (Reason.OUT_OF_MEMORY, Reason.TIMED_OUT)


def more_would_help(job_id: str, reason: str | None) -> str:
    """What to do about a job that ran out of something, in a sentence; empty for any other reason."""
    if not more_is_known_to_help(reason):
        return ""
    return f"`divbase jobs rerun {job_id} --more` asks for double."
