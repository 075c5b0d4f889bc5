"""The life of a job: its states, what SLURM's words mean for them, and when a job has succeeded, failed or is to be
tried again. Pure decisions over evidence; who gathers the evidence and who writes the row is not known here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache


class JobState(StrEnum):
    """DivBase's own states. The last four are ends and never change again, but for a rerun that the user asks for."""

    ACCEPTED = "ACCEPTED"  # the row is committed with its plan; nothing has left the house
    SUBMITTING = "SUBMITTING"  # an attempt has a name and a token, and the scheduler is being asked
    SUBMIT_UNKNOWN = "SUBMIT_UNKNOWN"  # the scheduler's answer was lost; we look for the name
    QUEUED = "QUEUED"  # the scheduler has it and it waits
    RUNNING = "RUNNING"  # it runs on a node
    SPREAD = "SPREAD"  # its shards are jobs of their own, and not all of them have succeeded; then it joins them
    FINALIZING = "FINALIZING"  # the scheduler is done with it, or nearly; the result is being verified
    SUCCEEDED = "SUCCEEDED"  # three witnesses: scheduler, job and object store
    FAILED = "FAILED"  # with a reason
    CANCELLED = "CANCELLED"  # by somebody
    LOST = "LOST"  # neither scheduler nor job was heard of before the deadline

    @property
    def is_end(self) -> bool:
        return self in ENDS


UNASKED = frozenset({"index", "sidecar"})
"""Kinds of jobs that nobody asks for: uploads bring them about, so no limit refuses them."""

ENDS = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.LOST})


class Reason(StrEnum):
    """Why an attempt did not count. The first group is what a job can report of itself (docs/node-protocol.md)."""

    INPUT_MISSING = "input_missing"
    INPUT_CORRUPT = "input_corrupt"
    UNSORTED = "unsorted"
    COPY_DIFFERS = "copy_differs"
    BCFTOOLS_FAILED = "bcftools_failed"
    BCFTOOLS_MISSING = "bcftools_missing"
    DISK_FULL = "disk_full"
    OUT_OF_MEMORY = "out_of_memory"
    STORE_UNAVAILABLE = "store_unavailable"
    GATEWAY_UNAVAILABLE = "gateway_unavailable"
    UPLOAD_FAILED = "upload_failed"
    URLS_EXPIRED = "urls_expired"
    RESULT_TOO_LARGE = "result_too_large"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    INTERNAL_ERROR = "internal_error"
    # what the gateway concludes
    SUBMISSION_REFUSED = "submission_refused"
    NOT_SUBMITTED = "not_submitted"
    NODE_FAILED = "node_failed"
    REQUEUED = "requeued"
    SCRIPT_FAILED = "script_failed"
    RESULT_MISSING = "result_missing"
    RESULT_MISMATCH = "result_mismatch"
    SUPERSEDED = "superseded"
    NOT_SEEN = "not_seen"


WORTH_ANOTHER_ATTEMPT = frozenset(
    {
        Reason.DISK_FULL,
        Reason.STORE_UNAVAILABLE,
        Reason.GATEWAY_UNAVAILABLE,
        Reason.UPLOAD_FAILED,
        Reason.URLS_EXPIRED,
        Reason.NODE_FAILED,
        Reason.REQUEUED,
    }
)
"""Faults of the machinery, not of the question. The attempts are bounded by the site's `jobs.max_attempts`."""

HOPELESS = frozenset(
    {Reason.INPUT_MISSING, Reason.INPUT_CORRUPT, Reason.UNSORTED, Reason.BCFTOOLS_FAILED, Reason.RESULT_TOO_LARGE}
)
"""What another run would end with too, wherever it ran and whatever it was given."""

_WORDS = {
    Reason.INPUT_MISSING: "An input file is no longer in the bucket in the version that the query was planned on.",
    Reason.INPUT_CORRUPT: "An input file is damaged, or is not the file that the query was planned on.",
    Reason.UNSORTED: "The records of the file are not sorted by position, so it cannot be indexed.",
    Reason.COPY_DIFFERS: "A BCF copy of the file would not be the same in everything that a query can see.",
    Reason.BCFTOOLS_FAILED: "bcftools failed.",
    Reason.BCFTOOLS_MISSING: "There is no working bcftools on the compute node; the site's operator must install it.",
    Reason.DISK_FULL: "The disk of the compute node is full.",
    Reason.OUT_OF_MEMORY: "The job needed more memory than it had asked for.",
    Reason.STORE_UNAVAILABLE: "The object store did not answer the compute node for too long.",
    Reason.GATEWAY_UNAVAILABLE: "DivBase did not answer the compute node for too long.",
    Reason.UPLOAD_FAILED: "The result did not arrive whole in the object store.",
    Reason.URLS_EXPIRED: "The job waited or ran for longer than its access to the object store was good for.",
    Reason.RESULT_TOO_LARGE: "The result is larger than what was provided for when the job was submitted.",
    Reason.TIMED_OUT: "The job ran into its time limit.",
    Reason.CANCELLED: "The job was cancelled.",
    Reason.INTERNAL_ERROR: "The job failed for a reason of DivBase's own; please report it with the job's id.",
    Reason.SUBMISSION_REFUSED: "The scheduler refused the job.",
    Reason.NOT_SUBMITTED: "The submission did not reach the scheduler.",
    Reason.NODE_FAILED: "The compute node, or the process that watched the job, went away.",
    Reason.REQUEUED: "The scheduler ended the job and put it back into its queue while it ran.",
    Reason.SCRIPT_FAILED: "The batch script ended with an error that it could not report itself; see the job's log.",
    Reason.RESULT_MISSING: "The scheduler calls the job completed, but the job reported no result.",
    Reason.RESULT_MISMATCH: "The result in the object store is not the one that the job reported.",
    Reason.SUPERSEDED: "The file was replaced or deleted while it was being repaired. What is there now stays.",
    Reason.NOT_SEEN: "Neither the scheduler nor the job itself has been heard of for too long.",
}


def words_for(reason: Reason) -> str:
    """What the reason means, in a sentence for the user."""
    return _WORDS[reason]


EXIT_NOT_OURS = 3
"""The batch script's exit code when another run has the attempt, so that it did nothing (docs/node-protocol.md)."""

EXITS_UNREPORTED = {74: Reason.STORE_UNAVAILABLE, 75: Reason.GATEWAY_UNAVAILABLE, 76: Reason.URLS_EXPIRED}
"""The batch script's exit codes when it could tell nobody how it ended, and why not (docs/node-protocol.md)."""

SIGNAL_BEFORE_LIMIT = 12
"""SIGUSR2, which the script's header asks for when its time is nearly over. It ends a script that has not come to its
traps yet, and then nothing reports."""


class Phase(StrEnum):
    """What one word of the scheduler's means to us."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    ENDING = "ENDING"  # between running and an end: never terminal
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"  # a word that we do not know: nothing changes


_PHASES = {
    "PENDING": Phase.WAITING,
    "REQUEUED": Phase.WAITING,
    "CONFIGURING": Phase.WAITING,
    "RUNNING": Phase.RUNNING,
    "SUSPENDED": Phase.RUNNING,
    "STOPPED": Phase.RUNNING,
    "RESIZING": Phase.RUNNING,
    "SIGNALING": Phase.RUNNING,
    "COMPLETING": Phase.ENDING,
    "STAGE_OUT": Phase.ENDING,
    "COMPLETED": Phase.COMPLETED,
    "CANCELLED": Phase.CANCELLED,
    "FAILED": Phase.FAILED,
    "TIMEOUT": Phase.FAILED,
    "DEADLINE": Phase.FAILED,
    "OUT_OF_MEMORY": Phase.FAILED,
    "BOOT_FAIL": Phase.FAILED,
    "NODE_FAIL": Phase.FAILED,
    "PREEMPTED": Phase.FAILED,
}

_SIGKILL = 9
"""How SLURM ends a job that is over its memory where no cgroup does it: FAILED 0:9, and no word about memory."""

_FAILURES = {
    "TIMEOUT": Reason.TIMED_OUT,
    "DEADLINE": Reason.TIMED_OUT,
    "OUT_OF_MEMORY": Reason.OUT_OF_MEMORY,
    "BOOT_FAIL": Reason.NODE_FAILED,
    "NODE_FAIL": Reason.NODE_FAILED,
    "PREEMPTED": Reason.NODE_FAILED,
}


@lru_cache(maxsize=256)  # every look asks it several times of every job
def phase_of(slurm_state: str) -> Phase:
    """The phase that a scheduler's word stands for; `CANCELLED by 1001` is CANCELLED.

    Source: the job state codes in SLURM's squeue(1) and sacct(1).
    """
    return _PHASES.get(slurm_state.split(" ", 1)[0].rstrip("+"), Phase.UNKNOWN)


@dataclass(frozen=True)
class Report:
    """What the job said of itself at its end. `reason` None: it succeeded."""

    reason: Reason | None
    message: str | None


@dataclass(frozen=True)
class Evidence:
    """All that is known of an attempt when it is judged.

    Attributes:
        slurm_state, exit_code, signal: the scheduler's; None while it has not been seen.
        report: the job's own word, None while there is none.
        results_verified: the store's: True if every reported object is there with its checksum, None while nobody
            has looked.
        cancel_requested: the user asked for its end.
        over_memory: accounting saw it use more memory than it had asked for.
    """

    slurm_state: str | None
    exit_code: int | None = None
    signal: int | None = None
    report: Report | None = None
    results_verified: bool | None = None
    cancel_requested: bool = False
    over_memory: bool = False


@dataclass(frozen=True)
class Decision:
    """What to do: a state to be in; for FAILED the reason and the words; `verify` asks for a look into the store."""

    state: JobState | None
    reason: Reason | None = None
    message: str | None = None
    verify: bool = False


def decide(evidence: Evidence) -> Decision:
    """Judge an attempt. `state` None means: leave everything as it is.

    Success needs three witnesses: the scheduler says COMPLETED with exit 0, the job reported its checksums, and the
    store has the objects. Anything less is a failure with a reason, and none of it is concluded from silence.
    """
    phase = phase_of(evidence.slurm_state) if evidence.slurm_state else Phase.UNKNOWN
    if phase is Phase.WAITING:
        return Decision(JobState.QUEUED)
    if phase is Phase.RUNNING:
        return Decision(JobState.FINALIZING if evidence.report else JobState.RUNNING)
    if phase is Phase.ENDING:
        return Decision(JobState.FINALIZING)
    if phase is Phase.COMPLETED:
        return _judge_completed(evidence)
    if phase is Phase.CANCELLED:
        return _judge_cancelled(evidence)
    if phase is Phase.FAILED:
        return _judge_failed(evidence)
    return Decision(None)


def _judge_completed(evidence: Evidence) -> Decision:
    if evidence.exit_code not in (0, None) or evidence.signal:
        return _judge_failed(evidence)
    if evidence.report is None:
        return _failure(Reason.RESULT_MISSING)
    if evidence.report.reason is not None:
        return _failure(evidence.report.reason, evidence.report.message)
    if evidence.results_verified is None:
        return Decision(JobState.FINALIZING, verify=True)
    return Decision(JobState.SUCCEEDED) if evidence.results_verified else _failure(Reason.RESULT_MISMATCH)


def _judge_cancelled(evidence: Evidence) -> Decision:
    who = "at the user's request" if evidence.cancel_requested else "by the scheduler's administrator"
    by = (evidence.slurm_state or "").partition(" by ")[2]
    uid = f" (uid {by})" if by else ""
    return Decision(JobState.CANCELLED, Reason.CANCELLED, f"The job was cancelled {who}{uid}.")


def _judge_failed(evidence: Evidence) -> Decision:
    if evidence.cancel_requested and evidence.report and evidence.report.reason is Reason.CANCELLED:
        return _judge_cancelled(evidence)
    base = (evidence.slurm_state or "").split(" ", 1)[0]
    # SLURM ends a job with SIGTERM when it preempts it or takes its node away; the job can only call that a cancel.
    told_to_end = evidence.report is not None and evidence.report.reason is Reason.CANCELLED and base in _FAILURES
    if evidence.report and evidence.report.reason is not None and not told_to_end:
        return _failure(evidence.report.reason, evidence.report.message)
    if base in _FAILURES:
        return _failure(_FAILURES[base])
    if evidence.signal == _SIGKILL and evidence.over_memory:
        return _failure(Reason.OUT_OF_MEMORY)
    if evidence.exit_code in EXITS_UNREPORTED:
        return _failure(EXITS_UNREPORTED[evidence.exit_code])
    if evidence.signal == SIGNAL_BEFORE_LIMIT:
        return _failure(Reason.TIMED_OUT)
    ended = f"signal {evidence.signal}" if evidence.signal else f"exit code {evidence.exit_code}"
    return _failure(Reason.SCRIPT_FAILED, f"{words_for(Reason.SCRIPT_FAILED)} ({base}, {ended})")


def _failure(reason: Reason, message: str | None = None) -> Decision:
    return Decision(JobState.FAILED, reason, message or words_for(reason))


def is_worth_retrying(reason: Reason | None, failed_attempts: int, max_attempts: int, cancel_requested: bool) -> bool:
    """Whether a failed attempt is followed by another without anybody asking. `failed_attempts` counts this one."""
    return reason in WORTH_ANOTHER_ATTEMPT and failed_attempts < max_attempts and not cancel_requested
