"""A scheduler in memory, with faults that a test switches on. It must not know files, processes or time.

Jobs move only when they are looked at: each `observe` starts what fits in the slots and ends what can end, so a test
needs no waiting. Scripts are not run; of their text only four kinds of line mean something, as in the contract suite:
`echo WORD`, `exit N`, `kill -9 $$`, and `sleep`, which lasts until the job is cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from divbase_gateway.domain.errors import SchedulerUnavailable, SubmissionRefused, SubmissionUnknown
from divbase_gateway.ports import (
    OUR_JOBS,
    ArraySubmission,
    Clock,
    Observation,
    PastRun,
    Sighting,
    SlurmRef,
    Submission,
)

PENDING = Sighting("PENDING", reason="Resources", source="fake")


class LostAnswer(StrEnum):
    """Whether the job exists although its submission was never answered."""

    AFTER_ACCEPT = "after_accept"
    BEFORE_ACCEPT = "before_accept"


@dataclass
class FakeJob:
    """One accepted job. `scripted` sightings are shown one by one, the last one for good."""

    ref: SlurmRef
    submission: Submission
    sighting: Sighting = PENDING
    scripted: list[Sighting] = field(default_factory=list)
    log: bytes = b""
    discarded: bool = False

    @property
    def ended(self) -> bool:
        return self.sighting.state not in ("PENDING", "RUNNING")


@dataclass
class FakeScheduler:
    """Implements `ports.Scheduler`.

    Faults:
        away: every call raises SchedulerUnavailable.
        accounting_away: jobs that it has forgotten are unjudged and there is no history, as with slurmdbd away.
        lose_answer: for the next submission only.
        submit_twice: for the next submission only: two jobs come of it, and the answer names the first.
        refusal: the words with which the next submissions are refused.
        before_answer, during_look: called once, when a submission was taken and not yet answered; when a look has seen
            the jobs and not yet said so.
        hidden: `find` does not see what there is, as an accounting that lags for long.
        forgetful: no record is left of what is cancelled, as of a task of an array of SLURM.
        by_itself: False leaves every job as it is until the test says otherwise (`show`).

    Records: `jobs` in order, `cancelled` and `discarded` refs, `cancels` and `looks` (calls of cancel and of observe),
    `accepted` (jobs ever taken, forgotten ones included).
    """

    clock: Clock
    slots: int = 2
    away: bool = False
    accounting_away: bool = False
    lose_answer: LostAnswer | None = None
    submit_twice: bool = False
    before_answer: Callable[[], object] | None = None
    during_look: Callable[[], object] | None = None
    refusal: str | None = None
    hidden: bool = False
    forgetful: bool = False
    by_itself: bool = True
    jobs: list[FakeJob] = field(default_factory=list)
    cancelled: list[SlurmRef] = field(default_factory=list)
    cancels: int = 0
    discarded: list[SlurmRef] = field(default_factory=list)
    looks: int = 0
    accepted: int = 0

    # --- what a test says ---------------------------------------------------------------------------------------

    def job(self, name: str) -> FakeJob:
        """The newest job of this name."""
        return next(job for job in reversed(self.jobs) if job.submission.name == name)

    def show(self, name: str, *sightings: Sighting) -> None:
        """What the next looks at the job see, one each; the last stays."""
        self.job(name).scripted = list(sightings)

    def forget(self, name: str) -> None:
        """Lose every record of the job, as a scheduler does with old jobs."""
        self.jobs = [job for job in self.jobs if job.submission.name != name]

    # --- the port -----------------------------------------------------------------------------------------------

    def submit(self, submission: Submission) -> SlurmRef:
        self._answer()
        if self.refusal is not None:
            raise SubmissionRefused(self.refusal)
        lost, self.lose_answer = self.lose_answer, None
        twice, self.submit_twice = self.submit_twice, False
        if lost is not LostAnswer.BEFORE_ACCEPT:
            ref = self._accept(submission)
            if twice:
                self._accept(submission)
        happens, self.before_answer = self.before_answer, None
        if happens is not None:
            happens()
        if lost is not None:
            raise SubmissionUnknown(f"The answer to the submission of {submission.name} was lost.")
        return ref

    def _accept(self, submission: Submission, job_id: str | None = None) -> SlurmRef:
        self.accepted += 1
        ref = SlurmRef("fake", job_id or str(self.accepted), submission.name, self.clock.now())
        self.jobs.append(FakeJob(ref, submission))
        return ref

    def observe(self, refs: Sequence[SlurmRef]) -> Observation:
        self._answer()
        self.looks += 1
        if self.by_itself:
            self._advance()
        seen = {job.ref: self._show(job) for job in self.jobs if job.ref in refs}
        happens, self.during_look = self.during_look, None
        if happens is not None:
            happens()
        unjudged = frozenset(refs) - frozenset(seen) if self.accounting_away else frozenset()
        return Observation(self.clock.now(), seen, unjudged)

    def find(self, name: str, since: datetime) -> list[SlurmRef]:
        self._answer()
        if self.hidden:
            return []
        return [job.ref for job in self.jobs if job.ref.name == name and job.ref.submitted_at >= since]

    def history(self, since: datetime) -> list[PastRun]:
        self._answer()
        if self.accounting_away:
            raise SchedulerUnavailable("The fake scheduler's accounting was switched off.")
        runs = [PastRun(job.ref, job.sighting) for job in self.jobs if job.ref.name.startswith(OUR_JOBS)]
        return [run for run in runs if run.sighting.ended_at is None or run.sighting.ended_at >= since]

    def cancel(self, *refs: SlurmRef) -> None:
        self._answer()
        self.cancelled += refs
        self.cancels += 1
        if self.forgetful:
            self.jobs = [job for job in self.jobs if job.ref not in refs]
        for job in (each for ref in refs for each in self._of(ref)):
            if not job.ended:
                signal = 15 if job.sighting.state == "RUNNING" else 0
                job.sighting = self._end(job, "CANCELLED", 0, signal)

    def read_log(self, ref: SlurmRef, max_bytes: int) -> bytes:
        self._answer()
        logs = [job.log for job in self._of(ref) if not job.discarded]
        return logs[0][-max_bytes:] if logs and max_bytes > 0 else b""

    def discard(self, ref: SlurmRef) -> None:
        self._answer()
        self.discarded.append(ref)
        for job in self._of(ref):
            job.discarded = True

    def ping(self) -> str:
        self._answer()
        return f"fake scheduler: {self.slots} slots"

    # --- how jobs move ------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        if self.away:
            raise SchedulerUnavailable("The fake scheduler was switched off.")

    def _of(self, ref: SlurmRef) -> list[FakeJob]:
        return [job for job in self.jobs if job.ref == ref]

    def _show(self, job: FakeJob) -> Sighting:
        if job.scripted:
            job.sighting = job.scripted.pop(0) if len(job.scripted) > 1 else job.scripted[0]
        return job.sighting

    def _advance(self) -> None:
        for job in self.jobs:
            if job.sighting.state == "RUNNING" and not job.scripted:
                self._run(job)
        running = sum(job.sighting.state == "RUNNING" for job in self.jobs)
        for job in [job for job in self.jobs if job.sighting.state == "PENDING"][: max(0, self.slots - running)]:
            cores = job.submission.cores
            job.sighting = Sighting(
                "RUNNING", node="fake", started_at=self.clock.now(), alloc_cpus=cores, source="fake"
            )

    def _run(self, job: FakeJob) -> None:
        """Follow the script to its end, or to the first `sleep`."""
        words = [line.split() for line in job.submission.script.splitlines() if line.split()]
        output = b""
        for verb, *rest in words:
            if verb == "sleep":
                job.log = output
                return
            if verb == "echo":
                output += " ".join(rest).encode() + b"\n"
            if verb in ("exit", "kill"):
                break
        job.log = output
        job.sighting = self._ended_by(job, verb, rest)

    def _ended_by(self, job: FakeJob, verb: str, rest: Sequence[str]) -> Sighting:
        if verb == "kill":
            return self._end(job, "FAILED", 0, 9)
        code = int(rest[0]) if verb == "exit" else 0
        return self._end(job, "FAILED" if code else "COMPLETED", code, 0)

    def _end(self, job: FakeJob, state: str, code: int, signal: int) -> Sighting:
        now = self.clock.now()
        return replace(job.sighting, state=state, reason="", exit_code=code, signal=signal, ended_at=now, elapsed_s=0.0)


@dataclass
class FakeArrayScheduler(FakeScheduler):
    """One that takes arrays. `arrays` records them: the numbers of the tasks of each."""

    arrays: list[list[int]] = field(default_factory=list)

    def submit_array(self, array: ArraySubmission) -> list[SlurmRef]:
        self._answer()
        if self.refusal is not None:
            raise SubmissionRefused(self.refusal)
        lost, self.lose_answer = self.lose_answer, None
        twice, self.submit_twice = self.submit_twice, False
        refs = []
        for _ in range(0 if lost is LostAnswer.BEFORE_ACCEPT else 2 if twice else 1):
            job_id = self.accepted + 1
            self.arrays.append(sorted(array.tasks))
            refs += [self._accept(array.tasks[number], f"{job_id}_{number}") for number in sorted(array.tasks)]
        if lost is not None:
            raise SubmissionUnknown(f"The answer to the submission of {array.name} was lost.")
        return refs[: len(array.tasks)]
