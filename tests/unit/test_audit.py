"""The audit's comparison: truthful books pass it whatever happened, and every lie in them is named."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from divbase_gateway.domain.audit import GRACE, Attempt, Audit, Job, Kind, Run, compare
from divbase_gateway.domain.jobs import ENDS, JobState, Reason
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LOST_AFTER = timedelta(minutes=15)

quickly = settings(deadline=None, max_examples=40)  # a busy machine is no fault of the rule


@dataclass
class Books:
    """Jobs as the database has them, and runs as accounting has them."""

    jobs: list[Job] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    others: set[str] = field(default_factory=set)

    def compare(self, *, held_back: bool = False) -> Audit:
        return compare(self.jobs, self.runs, self.others, NOW, LOST_AFTER, held_back=held_back)

    def faults(self, *, held_back: bool = False) -> list[Kind]:
        return [finding.kind for finding in self.compare(held_back=held_back).faults]


def run(slurm_job_id: str = "1", name: str = "divbase-p-j1-a", state: str = "COMPLETED", exit_code: int = 0) -> Run:
    """A run of ten minutes that ended an hour ago."""
    ended_at = NOW - HOUR
    began = ended_at - timedelta(minutes=10)
    return Run(slurm_job_id, name, state, exit_code, began, began, ended_at, "n1")


def alive(slurm_job_id: str = "1", name: str = "divbase-p-j1-a", state: str = "RUNNING") -> Run:
    return Run(slurm_job_id, name, state, None, NOW - HOUR, NOW - HOUR if state == "RUNNING" else None, None, "n1")


def job(state: JobState = JobState.SUCCEEDED, outcome: str | None = "succeeded", slurm_job_id: str | None = "1") -> Job:
    """A job of one attempt whose state is an hour old."""
    attempt = Attempt(1, "divbase-p-j1-a", slurm_job_id, outcome)
    since = NOW - HOUR
    return Job("j1", "p", state, since, 120, 1, (attempt,), started_at=since, observed_at=NOW, ended_at=since)


# --- truthful books ----------------------------------------------------------------------------------------------

_WAYS = {
    JobState.SUCCEEDED: ("succeeded", "COMPLETED", 0),
    JobState.FAILED: (Reason.BCFTOOLS_FAILED, "FAILED", 1),
    JobState.CANCELLED: (Reason.CANCELLED, "CANCELLED by 2000", 0),
    JobState.RUNNING: (None, "RUNNING", None),
    JobState.QUEUED: (None, "PENDING", None),
}


@st.composite
def truthful(draw: st.DrawFn) -> Books:
    """Jobs with earlier attempts that failed, copies that did nothing, and one run that counts for each."""
    books = Books()
    ids = iter(range(1, 10_000))
    for number in range(draw(st.integers(0, 6))):
        state = draw(st.sampled_from(sorted(_WAYS)))
        outcome, word, exit_code = _WAYS[JobState(state)]
        failed = draw(st.integers(0, 2))
        attempts = []
        for place in range(1, failed + 2):
            name, counts = f"divbase-p-j{number}-{place}", str(next(ids))
            last = place == failed + 1
            attempts.append(Attempt(place, name, counts, outcome if last else Reason.NODE_FAILED))
            if last and exit_code is None:
                books.runs.append(alive(counts, name, word))
            else:
                books.runs.append(run(counts, name, word if last else "NODE_FAIL", exit_code or 0))
            for copy in draw(st.lists(st.sampled_from(["exit 3", "refused", "cancelled"]), max_size=2)):
                books.runs.append(idle(str(next(ids)), name, copy))
        since = NOW - HOUR
        books.jobs.append(
            Job(f"j{number}", "p", JobState(state), since, 120, failed + 1, tuple(attempts), since, NOW, since)
        )
    books.runs = draw(st.permutations(books.runs))
    return books


def idle(slurm_job_id: str, name: str, how: str) -> Run:
    """A copy that did no work: refused at its claim, refused by size, or cancelled while it waited."""
    if how == "exit 3":
        return run(slurm_job_id, name, "FAILED", 3)
    word = "FAILED" if how == "refused" else "CANCELLED"
    return replace(run(slurm_job_id, name, word, 1), started_at=None, node=None)


@quickly
@given(truthful())
def test_truthful_books_have_no_faults(books: Books) -> None:
    """Whatever failed, was tried again or was submitted twice: where one run counted, nothing is found."""
    assert books.compare().faults == []


@quickly
@given(truthful())
def test_every_job_is_counted_once(books: Books) -> None:
    """The table adds up to the jobs, each in its state."""
    by_state = books.compare().by_state
    assert {state: count.jobs for state, count in by_state.items()} == {
        state: sum(1 for each in books.jobs if each.state is state) for state in {each.state for each in books.jobs}
    }


@quickly
@given(truthful(), st.randoms())
def test_the_order_of_the_runs_does_not_matter(books: Books, random: object) -> None:
    """Accounting promises none."""
    before = books.compare()
    books.runs = sorted(books.runs, key=lambda each: random.random())  # type: ignore[attr-defined]
    after = books.compare()
    assert (set(after.findings), after.by_state) == (set(before.findings), before.by_state)


@quickly
@given(truthful(), st.data())
def test_a_second_run_that_worked_is_always_found(books: Books, data: st.DataObject) -> None:
    """Whatever else is in the books, two that did the work of one attempt are a fault of that job."""
    if not books.jobs:
        return
    chosen = data.draw(st.sampled_from(books.jobs))
    state, code = data.draw(st.sampled_from([("COMPLETED", 0), ("TIMEOUT", 0), ("FAILED", 1)]))
    books.runs.append(run("99999", chosen.attempts[-1].name, state, code))
    assert [(each.kind, each.job) for each in books.compare().faults] == [(Kind.TWO_RUNS_WORKED, chosen.id)]


@quickly
@given(truthful(), st.data())
def test_a_success_without_its_run_is_always_found(books: Books, data: st.DataObject) -> None:
    """A run that accounting never had, or that did not complete, is no witness."""
    good = [each for each in books.jobs if each.state is JobState.SUCCEEDED]
    if not good:
        return
    chosen = data.draw(st.sampled_from(good))
    counted = next(each for each in books.runs if each.slurm_job_id == chosen.attempts[-1].slurm_job_id)
    books.runs.remove(counted)
    expected = Kind.NOT_IN_ACCOUNTING
    if data.draw(st.booleans()):
        books.runs.append(replace(counted, state="FAILED", exit_code=1))
        expected = Kind.SUCCESS_WITHOUT_RUN
    assert [(each.kind, each.job) for each in books.compare().faults] == [(expected, chosen.id)]


# --- each kind of lie --------------------------------------------------------------------------------------------


def test_a_run_that_nobody_knows() -> None:
    """Somebody else's, or one that the database forgot."""
    (finding,) = Books([], [run()]).compare().faults
    assert (finding.kind, finding.slurm_job_id, finding.job) == (Kind.UNKNOWN_RUN, "1", None)


def test_a_run_of_an_older_job_is_known() -> None:
    """Accounting looks further back than the jobs that are audited."""
    assert Books([], [run()], {"divbase-p-j1-a"}).faults() == []


def test_an_account_that_other_gateways_use_too() -> None:
    """Their runs are counted and no fault; ours are judged as ever."""
    books = Books([job(JobState.LOST, Reason.NOT_SEEN)], [alive(), run("2", "divbase-q-j9-a")])
    audit = compare(books.jobs, books.runs, set(), NOW, LOST_AFTER, shared_account=True)
    assert ([each.kind for each in audit.faults], audit.runs, audit.of_others) == ([Kind.ALIVE_AFTER_END], 1, 1)


def test_an_ended_job_whose_run_lives() -> None:
    """It uses the cluster for nobody."""
    assert Books([job(JobState.LOST, Reason.NOT_SEEN)], [alive()]).faults() == [Kind.ALIVE_AFTER_END]


def test_a_copy_that_lives_on_after_the_end() -> None:
    """It would end at its claim, but it may wait for days."""
    assert Books([job()], [run(), alive("2", state="PENDING")]).faults() == [Kind.ALIVE_AFTER_END]


def test_a_copy_beside_a_job_that_runs_is_listed() -> None:
    """It will end at its claim; nobody needs to do anything."""
    audit = Books([job(JobState.RUNNING, None)], [alive(), alive("2", state="PENDING")]).compare()
    assert (audit.faults, [each.kind for each in audit.findings]) == ([], [Kind.IDLE_COPY])


def test_a_copy_that_came_when_all_was_tidied_is_listed() -> None:
    """Its directory is gone, so that SLURM fails it with 1 before the script begins; one that ran beside is a fault."""
    late = replace(run("2", state="FAILED", exit_code=1), started_at=NOW - HOUR, ended_at=NOW - HOUR)
    audit = Books([job()], [run(), late]).compare()
    assert (audit.faults, [each.kind for each in audit.findings]) == ([], [Kind.IDLE_COPY])
    beside = replace(late, started_at=NOW - HOUR - timedelta(minutes=5))
    assert Books([job()], [run(), beside]).faults() == [Kind.TWO_RUNS_WORKED]


def test_a_job_that_was_just_settled_is_too_early_to_judge() -> None:
    """Accounting lags by seconds; that is said, and is no finding."""
    just = replace(job(), state_since=NOW - GRACE + timedelta(seconds=1))
    for runs in ([], [alive()]):
        audit = Books([just], runs).compare()
        assert (audit.findings, audit.too_early) == ([], 1)


@pytest.mark.parametrize("outcome", [Reason.NOT_SUBMITTED, Reason.SUBMISSION_REFUSED])
def test_an_attempt_that_was_given_up_and_worked(outcome: Reason) -> None:
    """Its token is dead, so it should have ended at its claim."""
    books = Books([job(JobState.FAILED, outcome, slurm_job_id=None)], [run()])
    assert books.faults() == [Kind.GIVEN_UP_RUN_WORKED]


def test_a_record_of_a_job_refused_by_size_is_harmless() -> None:
    """slurmctld writes such a job down, FAILED, with an id, and it never starts."""
    refused = replace(run(state="FAILED", exit_code=1), started_at=None, node=None)
    audit = Books([job(JobState.FAILED, Reason.SUBMISSION_REFUSED, None)], [refused]).compare()
    assert (audit.faults, [each.kind for each in audit.findings]) == ([], [Kind.IDLE_COPY])


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED, JobState.LOST])
def test_an_end_that_slurm_contradicts(state: JobState) -> None:
    """SLURM calls the run COMPLETED, and the database says that it did not end so."""
    reason = {JobState.FAILED: Reason.TIMED_OUT, JobState.CANCELLED: Reason.CANCELLED, JobState.LOST: Reason.NOT_SEEN}
    assert Books([job(state, reason[state])], [run()]).faults() == [Kind.CONTRADICTION]


@pytest.mark.parametrize("outcome", [Reason.RESULT_MISSING, Reason.RESULT_MISMATCH])
def test_a_completed_run_without_a_good_result_is_no_contradiction(outcome: Reason) -> None:
    """SLURM knows nothing of results."""
    assert Books([job(JobState.FAILED, outcome)], [run()]).faults() == []


def test_a_job_that_stays_open_after_its_run_ended() -> None:
    """Nobody has looked for longer than the site allows."""
    assert Books([job(JobState.RUNNING, None)], [run()]).faults() == [Kind.CONTRADICTION]


def test_a_requeued_run_is_listed() -> None:
    """The run after it counts."""
    first = replace(run(state="REQUEUED"), submitted_at=NOW - 3 * HOUR)
    audit = Books([job()], [run(), first]).compare()
    assert (audit.faults, [each.kind for each in audit.findings]) == ([], [Kind.REQUEUED])


def test_a_success_that_the_scheduler_never_had() -> None:
    """A result without a run is somebody else's."""
    assert Books([job(slurm_job_id=None)], []).faults() == [Kind.SUCCESS_WITHOUT_RUN]


@pytest.mark.parametrize("state", [JobState.ACCEPTED, JobState.SUBMITTING, JobState.SUBMIT_UNKNOWN])
def test_a_job_that_is_not_submitted_is_overdue(state: JobState) -> None:
    """The reconciler does not run, or the scheduler has been away for very long."""
    assert Books([replace(job(state, None, None), started_at=None)], []).faults() == [Kind.OVERDUE]


def test_a_job_may_wait_for_ever_while_submission_is_held_back() -> None:
    """The operator knows."""
    books = Books([replace(job(JobState.ACCEPTED, None, None), started_at=None)])
    assert books.faults(held_back=True) == []


def test_a_job_that_nobody_has_heard_of_is_overdue() -> None:
    """It should be LOST by now."""
    silent = replace(job(JobState.RUNNING, None), observed_at=NOW - HOUR)
    assert Books([silent], [alive()]).faults() == [Kind.OVERDUE]


def test_a_job_beyond_its_time_limit_is_overdue() -> None:
    """SLURM should have ended it."""
    long = replace(job(JobState.RUNNING, None), started_at=NOW - 4 * HOUR)
    assert Books([long], [alive()]).faults() == [Kind.OVERDUE]


@pytest.mark.parametrize("state", sorted(set(JobState) - ENDS))
def test_an_open_job_may_be_missing_in_accounting(state: JobState) -> None:
    """A job that is held is not written down before it may start."""
    fresh = replace(job(state, None), state_since=NOW, started_at=None)
    assert Books([fresh], []).faults() == []


def test_a_job_that_was_cancelled_while_it_was_held_may_be_missing() -> None:
    """SLURM never writes it down; one that had started it does."""
    held = job(JobState.CANCELLED, Reason.CANCELLED)
    never = replace(held, attempts=(replace(held.attempts[0], started=False),))
    assert Books([never], []).faults() == []
    assert Books([held], []).faults() == [Kind.NOT_IN_ACCOUNTING]


def test_every_finding_says_what_to_do() -> None:
    """A finding that nobody can act on is noise."""
    books = Books([job(), replace(job(JobState.LOST, Reason.NOT_SEEN), id="j2")], [run(), run("2"), run("3", "x")])
    findings = books.compare().findings
    assert findings
    assert all(each.advice for each in findings)
