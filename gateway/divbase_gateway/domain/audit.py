"""What DivBase believes of its jobs against what the scheduler's accounting says ran. A pure comparison: who gathered
both sides, and how the outcome is shown, is not known here.

The rule that is checked: every accepted job has at most one run that did work, and exactly one if it succeeded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from divbase_gateway.domain.jobs import JobState, Phase, Reason, phase_of

EXIT_NOT_CLAIMED = 3
"""The script's exit status when another run has its attempt: no work was done (docs/node-protocol.md)."""

GRACE = timedelta(minutes=5)
"""Accounting lags: what ended less than this ago is not judged by what accounting lacks."""

_TIDYING = timedelta(seconds=5)
_BEFORE_SUBMISSION = timedelta(minutes=30)
_AFTER_LIMIT = timedelta(minutes=90)
_ENDS = (Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED)


@dataclass(frozen=True)
class Run:
    """One run that accounting has; `name` is the attempt's, and an id that was requeued is several of them."""

    slurm_job_id: str
    name: str
    state: str
    exit_code: int | None = None
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    node: str | None = None

    @property
    def is_over(self) -> bool:
        return phase_of(self.state) in _ENDS or self.ended_at is not None

    @property
    def did_nothing(self) -> bool:
        """It never started, or ended at its claim because another run has the attempt."""
        refused = phase_of(self.state) is Phase.FAILED and self.exit_code == EXIT_NOT_CLAIMED
        return self.is_over and (self.started_at is None or self.node is None or refused)

    def came_too_late(self, counted: Run | None) -> bool:
        """It failed when the run that counts had ended: with its directory gone, SLURM cannot start the script."""
        if counted is None or counted.ended_at is None or self.started_at is None:
            return False
        return phase_of(self.state) is Phase.FAILED and self.started_at >= counted.ended_at - _TIDYING


@dataclass(frozen=True)
class Attempt:
    """`slurm_job_id` is the run that counts: the one that claimed, or that sbatch told of while none has. `started`:
    the scheduler or the job has said so."""

    number: int
    name: str
    slurm_job_id: str | None
    outcome: str | None
    started: bool = True


@dataclass(frozen=True)
class Job:
    """An accepted job with its attempts; `attempt` is the number of the one that counts."""

    id: str
    project: str
    state: JobState
    state_since: datetime
    minutes: int
    attempt: int
    attempts: tuple[Attempt, ...] = ()
    started_at: datetime | None = None
    observed_at: datetime | None = None
    ended_at: datetime | None = None


class Kind(StrEnum):
    """What does not match. The last two are listed and are no faults."""

    SUCCESS_WITHOUT_RUN = "success_without_run"
    TWO_RUNS_WORKED = "two_runs_worked"
    GIVEN_UP_RUN_WORKED = "given_up_run_worked"
    UNKNOWN_RUN = "unknown_run"
    NOT_IN_ACCOUNTING = "not_in_accounting"
    CONTRADICTION = "contradiction"
    OVERDUE = "overdue"
    ALIVE_AFTER_END = "alive_after_end"
    IDLE_COPY = "idle_copy"
    REQUEUED = "requeued"


HARMLESS = frozenset({Kind.IDLE_COPY, Kind.REQUEUED})

_ADVICE = {
    Kind.SUCCESS_WITHOUT_RUN: "Compare `divbase jobs show` with `sacct -j`; do not use the result before it is clear.",
    Kind.TWO_RUNS_WORKED: "Read both logs; check the result's sha256 against its provenance, and report this.",
    Kind.GIVEN_UP_RUN_WORKED: "Read its log; it should have ended at its claim. Please report this.",
    Kind.UNKNOWN_RUN: "Another gateway's with the same account? Say `--shared-account`. If not, `scancel` it.",
    Kind.NOT_IN_ACCOUNTING: "Does slurmdbd keep jobs for that long, and does the gateway look at the right cluster?",
    Kind.CONTRADICTION: "Compare `divbase jobs show` with `sacct -j`; `divbase jobs rerun` repeats it.",
    Kind.OVERDUE: "Is `divbase-gateway serve` running, and does `divbase-gateway doctor` reach the scheduler?",
    Kind.ALIVE_AFTER_END: "`scancel` it: nobody waits for it any more.",
    Kind.IDLE_COPY: "Nothing: it did no work.",
    Kind.REQUEUED: "Nothing: the run after it counts.",
}


@dataclass(frozen=True)
class Finding:
    """One thing that does not match, in words, and what to do about it."""

    kind: Kind
    words: str
    job: str | None = None
    attempt: int | None = None
    slurm_job_id: str | None = None

    @property
    def is_harmless(self) -> bool:
        return self.kind in HARMLESS

    @property
    def advice(self) -> str:
        return _ADVICE[self.kind]


@dataclass
class Count:
    """Jobs of one state: how many have no run at the scheduler, one, or more; and runs that counted."""

    none: int = 0
    one: int = 0
    more: int = 0
    counted: int = 0

    @property
    def jobs(self) -> int:
        return self.none + self.one + self.more


@dataclass(frozen=True)
class Audit:
    """The outcome: `by_state` for every state that a job is in, and findings in a fixed order.

    `runs` are those of ours that accounting has, `of_others` those that the database does not know.
    """

    by_state: dict[JobState, Count]
    findings: list[Finding]
    runs: int = 0
    too_early: int = 0
    of_others: int = 0

    @property
    def faults(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.is_harmless]


@dataclass
class _Books:
    """Both sides of the comparison, and what it has found so far."""

    now: datetime
    lost_after: timedelta
    runs: dict[str, list[Run]]
    held_back: bool
    findings: list[Finding] = field(default_factory=list)
    too_early: int = 0

    def add(self, kind: Kind, words: str, job: Job | None, attempt: Attempt | None, run: Run | None) -> None:
        slurm_job_id = run.slurm_job_id if run else attempt.slurm_job_id if attempt else None
        found = (job.id if job else None, attempt.number if attempt else None, slurm_job_id)
        self.findings.append(Finding(kind, words, *found))


def compare(
    jobs: Sequence[Job],
    runs: Iterable[Run],
    known_names: Collection[str],
    now: datetime,
    lost_after: timedelta,
    *,
    held_back: bool = False,
    shared_account: bool = False,
) -> Audit:
    """Set every job against its runs.

    Args:
        jobs: those accepted in the time that is audited, with all their attempts.
        runs: everything that accounting has of that time; of older jobs too.
        known_names: names of runs that are attempts in the database, of whatever time.
        now: when the database was read, after accounting had answered.
        lost_after: how long the site lets a job be missing before it is LOST.
        held_back: the operator holds submission back, so that accepted jobs may wait for ever.
        shared_account: other gateways run jobs under the same account, so that unknown runs are only counted.
    """
    by_name: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_name[run.name].append(run)
    books = _Books(now, lost_after, by_name, held_back)
    by_state: dict[JobState, Count] = {}
    for job in jobs:
        _count(by_state.setdefault(job.state, Count()), job, books)
        _compare_job(job, books)
    ours = {each.name for job in jobs for each in job.attempts}.union(known_names)
    unknown = [run for name in sorted(set(by_name) - ours) for run in by_name[name]]
    for run in [] if shared_account else unknown:
        words = f"{run.slurm_job_id} ({run.name}) is {run.state} at the scheduler, and the database knows no such name."
        books.add(Kind.UNKNOWN_RUN, words, None, None, run)
    known = sum(map(len, by_name.values())) - len(unknown)
    return Audit(by_state, books.findings, known, books.too_early, of_others=len(unknown))


def _count(count: Count, job: Job, books: _Books) -> None:
    ids = {(attempt.name, run.slurm_job_id) for attempt in job.attempts for run in books.runs.get(attempt.name, [])}
    if not ids:
        count.none += 1
    elif len(ids) == 1:
        count.one += 1
    else:
        count.more += 1
    count.counted += sum(1 for attempt in job.attempts if _counted(attempt, books) is not None)


def _counted(attempt: Attempt, books: _Books) -> Run | None:
    """The last run of the id that counts."""
    own = [run for run in books.runs.get(attempt.name, []) if run.slurm_job_id == attempt.slurm_job_id]
    return max(own, key=lambda run: run.submitted_at or books.now, default=None)


def _compare_job(job: Job, books: _Books) -> None:
    if not job.state.is_end:
        _look_for_overdue(job, books)
    for attempt in job.attempts:
        _compare_attempt(job, attempt, books)
    if job.state is JobState.SUCCEEDED:
        _compare_success(job, books)


def _compare_attempt(job: Job, attempt: Attempt, books: _Books) -> None:
    counted = _counted(attempt, books)
    over = attempt.outcome is not None or job.state.is_end
    for run in books.runs.get(attempt.name, []):
        if run is counted:
            continue
        if run.slurm_job_id == attempt.slurm_job_id:
            words = f"{run.slurm_job_id} was requeued; this is an earlier run of it, {run.state}."
            books.add(Kind.REQUEUED, words, job, attempt, run)
        else:
            _compare_copy(job, attempt, run, counted, books, over=over)
    if counted is not None:
        _compare_counted(job, attempt, counted, books, over=over)
    elif attempt.slurm_job_id is not None and attempt.outcome is not None:
        _missing(job, attempt, books)


def _missing(job: Job, attempt: Attempt, books: _Books) -> None:
    """While a job waits, accounting need not have it: one that is held is written down when it may start, and never
    where it was cancelled before."""
    if attempt.outcome == Reason.CANCELLED and not attempt.started:
        return
    if _is_early(job, books):
        books.too_early += 1
        return
    words = f"The attempt ended ({attempt.outcome}) as {attempt.slurm_job_id}, and accounting has no such job."
    books.add(Kind.NOT_IN_ACCOUNTING, words, job, attempt, None)


def _compare_copy(job: Job, attempt: Attempt, run: Run, counted: Run | None, books: _Books, *, over: bool) -> None:
    """A run of the attempt that is not the one that counts."""
    name = run.slurm_job_id
    if run.did_nothing:
        how = "never started" if run.started_at is None or run.node is None else "ended at its claim"
        books.add(Kind.IDLE_COPY, f"{name} is a copy of the run that counts and {how}.", job, attempt, run)
    elif run.is_over and run.came_too_late(counted):
        books.add(Kind.IDLE_COPY, f"{name} is a copy that failed when all was done and tidied.", job, attempt, run)
    elif not run.is_over:
        if over and not _is_early(job, books):
            words = f"{name} is {run.state}, and the attempt is over."
            books.add(Kind.ALIVE_AFTER_END, words, job, attempt, run)
        else:
            books.add(Kind.IDLE_COPY, f"{name} is a copy, {run.state}, which will end at its claim.", job, attempt, run)
    elif attempt.slurm_job_id is None:
        words = f"{name} ended as {run.state} (exit {run.exit_code}), and the attempt counts as {attempt.outcome}."
        books.add(Kind.GIVEN_UP_RUN_WORKED, words, job, attempt, run)
    else:
        words = f"{name} ended as {run.state} (exit {run.exit_code}) beside {attempt.slurm_job_id}, which counts."
        books.add(Kind.TWO_RUNS_WORKED, words, job, attempt, run)


# What the database may call an attempt whose run SLURM calls COMPLETED: nothing that says it ended otherwise.
_NOT_COMPLETED = frozenset(
    {
        Reason.TIMED_OUT,
        Reason.OUT_OF_MEMORY,
        Reason.NODE_FAILED,
        Reason.SCRIPT_FAILED,
        Reason.CANCELLED,
        Reason.NOT_SEEN,
        Reason.NOT_SUBMITTED,
        Reason.SUBMISSION_REFUSED,
    }
)


def _compare_counted(job: Job, attempt: Attempt, run: Run, books: _Books, *, over: bool) -> None:
    if over and not run.is_over:
        if _is_early(job, books):
            books.too_early += 1
        elif job.state is not JobState.SUCCEEDED:  # a success without an end is a finding of its own
            words = f"{run.slurm_job_id} is {run.state}, and its attempt is over ({attempt.outcome or job.state})."
            books.add(Kind.ALIVE_AFTER_END, words, job, attempt, run)
    elif over and phase_of(run.state) is Phase.COMPLETED and attempt.outcome in _NOT_COMPLETED:
        words = f"{run.slurm_job_id} is {run.state}, and its attempt counts as {attempt.outcome}."
        books.add(Kind.CONTRADICTION, words, job, attempt, run)
    elif not over and run.is_over and run.ended_at and books.now - run.ended_at > books.lost_after + GRACE:
        words = f"{run.slurm_job_id} ended as {run.state} at {run.ended_at:%Y-%m-%d %H:%M} UTC, and the job is still "
        books.add(Kind.CONTRADICTION, f"{words}{job.state}.", job, attempt, run)


def _compare_success(job: Job, books: _Books) -> None:
    """Exactly one run that counted, COMPLETED, and it is the attempt that the result is of."""
    good = [attempt for attempt in job.attempts if attempt.outcome == "succeeded"]
    runs = [run for attempt in good if (run := _counted(attempt, books)) is not None]
    completed = [run for run in runs if phase_of(run.state) is Phase.COMPLETED]
    if len(good) == 1 and good[0].number == job.attempt and len(completed) == 1:
        return
    if len(good) == 1 and len(completed) == 0 and all(not run.is_over for run in runs) and _is_early(job, books):
        return
    if len(good) == 1 and not runs and good[0].slurm_job_id is not None:
        return  # said already, or too early to say: accounting does not have it
    said = ", ".join(f"{run.slurm_job_id} is {run.state}" for run in runs) or "no run counted"
    words = f"The job succeeded with {len(good)} attempts that did; {said}."
    books.add(Kind.SUCCESS_WITHOUT_RUN, words, job, good[0] if good else None, runs[0] if runs else None)


def _is_early(job: Job, books: _Books) -> bool:
    return books.now - job.state_since < GRACE


def _look_for_overdue(job: Job, books: _Books) -> None:
    for words in _overdue(job, books):
        attempt = next((each for each in job.attempts if each.number == job.attempt), None)
        books.add(Kind.OVERDUE, words, job, attempt, None)


def _overdue(job: Job, books: _Books) -> Iterator[str]:
    """Every open state has a time after which something should have happened; shards are looked at for themselves."""
    if job.state is JobState.SPREAD:
        return
    since = books.now - job.state_since
    patience = books.lost_after + _BEFORE_SUBMISSION
    if job.state in (JobState.ACCEPTED, JobState.SUBMITTING, JobState.SUBMIT_UNKNOWN):
        if since > patience and not (job.state is JobState.ACCEPTED and books.held_back):
            yield f"The job has been {job.state} since {job.state_since:%Y-%m-%d %H:%M} UTC and was not submitted."
        return
    unseen = books.now - max(job.observed_at or job.state_since, job.state_since)
    if unseen > patience:
        yield f"Neither the scheduler nor the job has been heard of for {_minutes(unseen)} minutes."
    elif job.started_at and books.now - job.started_at > timedelta(minutes=job.minutes) + _AFTER_LIMIT:
        yield f"The job started {_minutes(books.now - job.started_at)} minutes ago and may take {job.minutes}."


def _minutes(duration: timedelta) -> int:
    return int(duration.total_seconds() // 60)
