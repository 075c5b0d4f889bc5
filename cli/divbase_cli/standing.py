"""How a job stands, in lines for a person: its place in the queue, how far it is, what it used of what it asked for.

Pure text from wire models and the time of now; it prints nothing and asks nobody.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from divbase_cli.output import local_time, seconds, size
from divbase_cli.quantities import shown_memory, shown_minutes

if TYPE_CHECKING:
    from divbase_client.models import Attempt, Job, JobDetail

_STALE = timedelta(minutes=5)
"""The gateway looks at least each half minute, and a running job speaks up as often."""

_WIDTH = 20
_MUCH_MEMORY_MB, _MUCH_TIME_MIN = 4096, 60
"""What a job that asks for no more than this asks for keeps it from no node."""
_LITTLE, _NEARLY = 0.25, 0.9

Fact = tuple[str, object]


def standing(job: JobDetail, now: datetime) -> list[Fact]:
    """What belongs to the phase that the job is in."""
    if job.state.is_end:
        return _used(job)
    if job.state == "SPREAD":
        return [*_spread(job), ("Last heard of", heard_of(job, now))]
    if job.started_at is not None and job.state not in ("ACCEPTED", "SUBMITTING", "SUBMIT_UNKNOWN", "QUEUED"):
        return [*_progress(job, now), ("Last heard of", heard_of(job, now))]
    return [*_queue(job, now), ("Asks for", asked(job)), ("Last heard of", heard_of(job, now))]


def _spread(job: JobDetail) -> list[Fact]:
    """How far its shards are."""
    words = (job.waiting or "").partition(": ")[2].rstrip(".") or job.waiting
    share = bar(job.progress.done / job.progress.total) if job.progress and job.progress.total else None
    return [("Shards", words), ("Done", share)]


# --- waiting -----------------------------------------------------------------------------------------------------


def _queue(job: Job, now: datetime) -> list[Fact]:
    facts: list[Fact] = [("In the queue", place(job)), ("Waits because", job.waiting)]
    if job.stuck:
        facts.append(("Stuck", "it will not start by itself"))
    if job.expected_start is not None:
        facts.append(("Expected start", when(job.expected_start, now)))
    return [(name, value) for name, value in facts if value]


def place(job: Job) -> str | None:
    """`3 of 12 DivBase jobs waiting in partition main`; None where it is not known."""
    if job.queue_place is None or job.queue_length is None:
        return None
    where = f" in partition {job.partition}" if job.partition else ""
    return f"{job.queue_place} of {job.queue_length} DivBase jobs waiting{where}"


def short_wait(job: Job) -> str:
    """Why it waits in few words, for a line of a listing: `3 of 12: Jobs of higher priority come first`."""
    why = (job.waiting or "").partition(". ")[0].rstrip(".")
    before = "stuck" if job.stuck else f"{job.queue_place} of {job.queue_length}" if job.queue_place else ""
    return ": ".join(word for word in (before, why) if word)


def asked(job: Job) -> str:
    """What it asks of the scheduler."""
    cores = "1 core" if job.cores == 1 else f"{job.cores} cores"
    return f"{cores}, {shown_memory(job.memory_mb)} of memory, {shown_minutes(job.minutes)}"


def when(moment: datetime, now: datetime) -> str:
    """A guess, relative and absolute: `in 2 h 10 min (2024-05-01 12:00)`."""
    ahead = (moment - now).total_seconds()
    return f"{'any moment' if ahead < 60 else f'in {seconds(ahead)}'} ({local_time(moment)}), the scheduler guesses"


def heard_of(job: Job, now: datetime) -> str | None:
    """How old the news is, and a word of warning where it is old."""
    if job.observed_at is None:
        return None
    ago = now - job.observed_at
    words = f"{seconds(max(0.0, ago.total_seconds()))} ago"
    return f"{words}; the cluster may not answer" if ago > _STALE else words


# --- running -----------------------------------------------------------------------------------------------------


def _progress(job: JobDetail, now: datetime) -> list[Fact]:
    facts: list[Fact] = [("Node", job.node)]
    if job.started_at is not None:
        ran, limit = (now - job.started_at).total_seconds(), 60.0 * job.minutes
        facts.append(("Elapsed", f"{bar(ran / limit)} {seconds(max(0.0, ran))} of {seconds(limit)}"))
    if job.progress is not None:
        done, total = job.progress.done, job.progress.total
        share = f"{bar(done / total)} {size(done)} of {size(total)}" if total else ""
        facts.append(("Stage", f"{job.progress.stage} {share}".rstrip()))
    return facts


def bar(share: float) -> str:
    """`[########............]  40 %`"""
    bounded = min(1.0, max(0.0, share))
    full = int(bounded * _WIDTH)
    return f"[{'#' * full}{'.' * (_WIDTH - full)}] {bounded:3.0%}".replace("%", " %")


# --- ended -------------------------------------------------------------------------------------------------------


def _used(job: JobDetail) -> list[Fact]:
    last = next((one for one in job.attempts if one.number == job.attempt), None)
    if last is None or last.elapsed_s is None:
        return []
    limit = f"{seconds(last.elapsed_s)} of {seconds(60.0 * last.minutes)}" if last.minutes else seconds(last.elapsed_s)
    facts: list[Fact] = [("Node", last.node), ("Elapsed", limit)]
    cores = last.alloc_cpus or last.cores
    if last.cpu_s is not None and cores:
        share = cpu_efficiency(last)
        of = "" if share is None else f", {share:.0%} of {cores} core{'s' if cores > 1 else ''}".replace("%", " %")
        facts.append(("CPU time", f"{seconds(last.cpu_s)}{of}"))
    share = memory_efficiency(last)
    if last.max_rss_bytes is not None and share is not None:
        at_most = f"{size(last.max_rss_bytes)} of {shown_memory(last.memory_mb)}, {share:.0%}".replace("%", " %")
        facts.append(("Memory", f"{at_most} at most"))
    return facts + [("Note", words) for words in hints(job, last)]


def cpu_efficiency(attempt: Attempt) -> float | None:
    """CPU time by elapsed time by the cores that it was given."""
    cores = attempt.alloc_cpus or attempt.cores
    if attempt.cpu_s is None or not attempt.elapsed_s or not cores:
        return None
    return attempt.cpu_s / (attempt.elapsed_s * cores)


def memory_efficiency(attempt: Attempt) -> float | None:
    """The peak by what was asked for."""
    if attempt.max_rss_bytes is None or not attempt.memory_mb:
        return None
    return attempt.max_rss_bytes / (attempt.memory_mb << 20)


def hints(job: JobDetail, attempt: Attempt) -> list[str]:
    """Where memory or time was far off what it used: more than that keeps a job waiting, less ends it."""
    found = []
    memory = memory_efficiency(attempt)
    if memory is not None and memory < _LITTLE and attempt.memory_mb > _MUCH_MEMORY_MB:
        found.append(f"It used {memory:.0%} of its memory; a job that asks for less starts sooner.".replace("%", " %"))
    if memory is not None and memory > _NEARLY and attempt.outcome != "out_of_memory":
        more = shown_memory(2 * attempt.memory_mb)
        found.append(f"It nearly used up its memory; ask for more next time (`rerun {job.id} --memory {more}`).")
    time = (attempt.elapsed_s or 0.0) / (60.0 * attempt.minutes) if attempt.minutes else 0.0
    succeeded = attempt.outcome == "succeeded"
    if succeeded and time < _LITTLE and attempt.minutes > _MUCH_TIME_MIN:
        found.append(
            f"It took {time:.0%} of its time limit; a job that asks for less starts sooner.".replace("%", " %")
        )
    if succeeded and time > _NEARLY:
        found.append("It nearly ran into its time limit; a larger question may need a rerun with more time.")
    return found
