"""How an attempt is judged from what scheduler, job and store say of it."""

from __future__ import annotations

import pytest
from divbase_gateway.domain.jobs import (
    ENDS,
    WORTH_ANOTHER_ATTEMPT,
    Decision,
    Evidence,
    JobState,
    Phase,
    Reason,
    Report,
    decide,
    is_worth_retrying,
    phase_of,
    words_for,
)

SUCCEEDED = Report(None, None)
"""The job's own word that all went well."""


def completed(**more: object) -> Evidence:
    """The scheduler calls the job completed, with exit 0."""
    return Evidence("COMPLETED", exit_code=0, signal=0, **more)  # type: ignore[arg-type]


# --- the scheduler's words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "phase"),
    [
        ("PENDING", Phase.WAITING),
        ("REQUEUED", Phase.WAITING),
        ("RUNNING", Phase.RUNNING),
        ("SUSPENDED", Phase.RUNNING),
        ("COMPLETING", Phase.ENDING),
        ("COMPLETED", Phase.COMPLETED),
        ("CANCELLED", Phase.CANCELLED),
        ("CANCELLED by 1001", Phase.CANCELLED),
        ("CANCELLED+", Phase.CANCELLED),
        ("TIMEOUT", Phase.FAILED),
        ("OUT_OF_MEMORY", Phase.FAILED),
        ("NODE_FAIL", Phase.FAILED),
        ("PREEMPTED", Phase.FAILED),
        ("OUT_OF_ME+", Phase.UNKNOWN),
        ("REVOKED", Phase.UNKNOWN),
        ("", Phase.UNKNOWN),
    ],
)
def test_a_word_of_the_scheduler_has_one_meaning(word: str, phase: Phase) -> None:
    """Guards: SLURM's words, whole, with an addition and cut off."""
    assert phase_of(word) is phase


@pytest.mark.parametrize("word", [None, "", "REVOKED", "OUT_OF_ME+"])
def test_a_word_that_we_do_not_know_changes_nothing(word: str | None) -> None:
    """Guards: nothing is concluded from silence or from a word that a newer SLURM made up."""
    assert decide(Evidence(word, exit_code=0, report=SUCCEEDED, results_verified=True)) == Decision(None)


def test_waiting_and_running_and_ending() -> None:
    """Guards: no open state of the scheduler ends a job; a report of the job moves it on to FINALIZING."""
    assert decide(Evidence("PENDING")) == Decision(JobState.QUEUED)
    assert decide(Evidence("RUNNING")) == Decision(JobState.RUNNING)
    assert decide(Evidence("RUNNING", report=SUCCEEDED)) == Decision(JobState.FINALIZING)
    assert decide(Evidence("COMPLETING", report=SUCCEEDED)) == Decision(JobState.FINALIZING)
    assert decide(Evidence("COMPLETING")) == Decision(JobState.FINALIZING)


# --- three witnesses -----------------------------------------------------------------------------------------------


def test_three_witnesses_make_a_success() -> None:
    """Guards: the scheduler, the job and the store agree."""
    assert decide(completed(report=SUCCEEDED, results_verified=True)) == Decision(JobState.SUCCEEDED)


def test_without_the_store_s_word_it_is_asked_for() -> None:
    """Guards: a store that nobody could ask is no witness, and no reason to fail either."""
    assert decide(completed(report=SUCCEEDED)) == Decision(JobState.FINALIZING, verify=True)


def test_without_the_job_s_word_it_failed() -> None:
    """Guards: exit 0 alone is no success."""
    decision = decide(completed(results_verified=True))
    assert (decision.state, decision.reason) == (JobState.FAILED, Reason.RESULT_MISSING)


def test_without_the_object_it_failed() -> None:
    """Guards: a checksum that the store does not confirm is no success."""
    decision = decide(completed(report=SUCCEEDED, results_verified=False))
    assert (decision.state, decision.reason) == (JobState.FAILED, Reason.RESULT_MISMATCH)


@pytest.mark.parametrize(
    ("state", "code", "signal", "reason"),
    [
        ("FAILED", 1, 0, Reason.SCRIPT_FAILED),
        ("FAILED", 74, 0, Reason.STORE_UNAVAILABLE),
        ("FAILED", 75, 0, Reason.GATEWAY_UNAVAILABLE),
        ("FAILED", 76, 0, Reason.URLS_EXPIRED),
        ("FAILED", 0, 9, Reason.SCRIPT_FAILED),
        ("FAILED", 0, 12, Reason.TIMED_OUT),
        ("COMPLETED", 1, 0, Reason.SCRIPT_FAILED),
        ("COMPLETED", 0, 9, Reason.SCRIPT_FAILED),
        ("TIMEOUT", 0, 15, Reason.TIMED_OUT),
        ("DEADLINE", 0, 15, Reason.TIMED_OUT),
        ("OUT_OF_MEMORY", 0, 125, Reason.OUT_OF_MEMORY),
        ("NODE_FAIL", None, None, Reason.NODE_FAILED),
        ("BOOT_FAIL", None, None, Reason.NODE_FAILED),
        ("PREEMPTED", 0, 15, Reason.NODE_FAILED),
    ],
)
def test_without_the_scheduler_s_word_it_failed(
    state: str, code: int | None, signal: int | None, reason: Reason
) -> None:
    """Guards: what the scheduler calls a failure is one, whatever job and store say."""
    decision = decide(Evidence(state, code, signal, SUCCEEDED, results_verified=True))
    assert (decision.state, decision.reason) == (JobState.FAILED, reason)


# --- reasons and words ---------------------------------------------------------------------------------------------


def test_the_job_s_own_words_come_first() -> None:
    """Guards: the user reads what bcftools said, not `exit code 1`."""
    report = Report(Reason.BCFTOOLS_FAILED, "bcftools view ended with status 255: [E::hts_open] no such thing")
    decision = decide(Evidence("FAILED", 1, 0, report))
    assert (decision.reason, decision.message) == (report.reason, report.message)


def test_a_failure_that_was_reported_is_one_although_the_script_ended_well() -> None:
    """Guards: COMPLETED with a report of failure does not succeed."""
    decision = decide(completed(report=Report(Reason.DISK_FULL, "No space is left."), results_verified=True))
    assert (decision.state, decision.reason, decision.message) == (
        JobState.FAILED,
        Reason.DISK_FULL,
        "No space is left.",
    )


def test_an_end_that_nobody_explained_says_how_it_ended() -> None:
    """Guards: state, exit code or signal are in the message."""
    assert (decide(Evidence("FAILED", 2, 0)).message or "").endswith("(FAILED, exit code 2)")
    assert (decide(Evidence("FAILED", 0, 9)).message or "").endswith("(FAILED, signal 9)")


@pytest.mark.parametrize("word", ["NODE_FAIL", "PREEMPTED"])
def test_a_job_that_its_node_told_to_end_was_not_cancelled(word: str) -> None:
    """Guards: the SIGTERM of a preemption or a shutdown, which the job reports as a cancel, is a fault of the node."""
    report = Report(Reason.CANCELLED, "The job was cancelled.")
    decision = decide(Evidence(word, 143, 0, report))
    assert (decision.state, decision.reason) == (JobState.FAILED, Reason.NODE_FAILED)
    assert decide(Evidence(word, 143, 0, report, cancel_requested=True)).state is JobState.CANCELLED


def test_who_cancelled_is_said() -> None:
    """Guards: a user's cancel and an administrator's are told apart, with the uid where SLURM names it."""
    assert decide(Evidence("CANCELLED", 0, 15, cancel_requested=True)) == Decision(
        JobState.CANCELLED, Reason.CANCELLED, "The job was cancelled at the user's request."
    )
    assert decide(Evidence("CANCELLED by 1001", 0, 15)) == Decision(
        JobState.CANCELLED, Reason.CANCELLED, "The job was cancelled by the scheduler's administrator (uid 1001)."
    )


def test_a_cancel_that_came_too_late_changes_nothing() -> None:
    """Guards: a job that had all three witnesses succeeded, whatever was asked meanwhile."""
    late = completed(report=SUCCEEDED, results_verified=True, cancel_requested=True)
    assert decide(late) == Decision(JobState.SUCCEEDED)


def test_every_reason_has_words() -> None:
    """Guards: no failure reaches a user without a sentence."""
    for reason in Reason:
        assert words_for(reason).endswith((".", "id."))


# --- another attempt -----------------------------------------------------------------------------------------------


def test_only_faults_of_the_machinery_are_worth_another_attempt() -> None:
    """Guards: what will fail again is not run again."""
    assert {reason.value for reason in WORTH_ANOTHER_ATTEMPT} == {
        "disk_full",
        "store_unavailable",
        "gateway_unavailable",
        "upload_failed",
        "urls_expired",
        "node_failed",
        "requeued",
    }


def test_attempts_are_bounded() -> None:
    """Guards: the second failure of at most three is followed by another attempt, the third is not."""
    assert is_worth_retrying(Reason.NODE_FAILED, 2, 3, cancel_requested=False)
    assert not is_worth_retrying(Reason.NODE_FAILED, 3, 3, cancel_requested=False)
    assert not is_worth_retrying(Reason.NODE_FAILED, 1, 1, cancel_requested=False)
    assert not is_worth_retrying(Reason.BCFTOOLS_FAILED, 1, 3, cancel_requested=False)
    assert not is_worth_retrying(None, 1, 3, cancel_requested=False)


def test_who_cancelled_wants_no_other_attempt() -> None:
    """Guards: a cancel ends the job also where its attempt fails by itself."""
    assert not is_worth_retrying(Reason.NODE_FAILED, 1, 3, cancel_requested=True)


def test_the_ends() -> None:
    """Guards: four states never change again; every other is open."""
    assert {state.value for state in JobState if state.is_end} == {"SUCCEEDED", "FAILED", "CANCELLED", "LOST"}
    assert {state for state in JobState if state.is_end} == ENDS
