"""Why jobs wait, in words, and which of them wait in vain."""

from __future__ import annotations

from pathlib import Path

import pytest
from divbase_gateway.domain.jobs import JobState, Phase, phase_of
from divbase_gateway.domain.waiting import reason_words, stuck_words, waiting_words
from divbase_gateway.slurm.records import squeue_records

RECORDED = Path(__file__).parents[1] / "recorded"

PASSING = [
    "",
    "None",
    "Priority",
    "Resources",
    "Dependency",
    "PartitionDown",
    "PartitionInactive",
    "PartitionNodeLimit",
    "ReqNodeNotAvail",
    "ReqNodeNotAvail, UnavailableNodes:",
    "ReqNodeNotAvail, UnavailableNodes:c[1-2]",
    "ReqNodeNotAvail, Reserved for maintenance",
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
    "NodeDown",
    "BeginTime",
    "Licenses",
    "Reservation",
    "Cleaning",
    "JobArrayTaskLimit",
    "AssociationJobLimit",
    "QOSTimeLimit",
    "AssocGrpCpuLimit",
    "AssocGrpCPUMinutesLimit",
    "AssocGrpCPURunMinutesLimit",
    "AssocGrpGRESMinutes",
    "AssocGrpJobsLimit",
    "AssocGrpSubmitJobsLimit",
    "AssocMaxJobsLimit",
    "AssocMaxSubmitJobLimit",
    "MaxCpuPerAccount",
    "MaxJobsPerAccount",
    "MaxSubmitJobsPerAccount",
    "QOSGrpMemLimit",
    "QOSGrpUnknown",
    "QOSGrpWallLimit",
    "QOSMaxCpuPerUserLimit",
    "QOSMaxJobsPerUserLimit",
    "QOSMaxSubmitJobPerUserLimit",
]
IN_VAIN = [
    "DependencyNeverSatisfied",
    "PartitionConfig",
    "PartitionTimeLimit",
    "MaxMemPerLimit",
    "BadConstraints",
    "JobHeldAdmin",
    "JobHeldUser",
    "JobHoldMaxRequeue",
    "ReservationDeleted",
    "InvalidAccount",
    "InvalidQOS",
    "AccountNotAllowed",
    "QOSNotAllowed",
    "launch failed requeued held",
    "launch_failed_requeued_held",
    "job requeued in held state",
    "Job's account not permitted to use this partition (main allows lab not divbase)",
    "Job's_QOS_not_permitted_to_use_this_partition_(main_allows_long_not_normal)",
    "AssocMaxCpuPerJobLimit",
    "AssocMaxWallDurationPerJobLimit",
    "QOSMaxCpuMinutesPerJobLimit",
    "QOSMaxMemoryPerNode",
    "QOSMinCpuNotSatisfied",
    "QOSMinMemory",
]


@pytest.mark.parametrize("reason", PASSING)
def test_reason_that_passes_has_words_and_is_not_stuck(reason: str) -> None:
    """Guards: patience, or somebody who is at work already, gets the job over it."""
    assert reason_words(reason).endswith(".")
    assert stuck_words(reason) is None


@pytest.mark.parametrize("reason", IN_VAIN)
def test_reason_that_never_passes_says_who_must_act(reason: str) -> None:
    """Guards: nobody waits for a job that will not start."""
    words = reason_words(reason)
    assert stuck_words(reason) == words
    assert any(who in words for who in ("cancel it", "operator", "administrator"))


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("QOSMaxJobsPerUserLimit", "As many jobs of its QOS run as may run at once. It starts when some have ended."),
        (
            "AssocGrpCPUMinutesLimit",
            "The time of its account is used up (cores). The cluster's administrator must give it more, or a new "
            "period begins.",
        ),
        (
            "AssocGrpMemLimit",
            "The running jobs of its account are at its limit for memory. It starts when some have ended.",
        ),
        (
            "QOSMaxCpuMinutesPerJobLimit",
            "It is over the limit for cores and time that its QOS gives one job. Either cancel it and ask for less "
            "(fewer files, samples or regions), or have the cluster's administrator raise the limit.",
        ),
        (
            "QOSGrpUnknown",
            "The running jobs of its QOS are at its limit for one resource. It starts when some have ended.",
        ),
        (
            "ReqNodeNotAvail, UnavailableNodes:c[1-2]",
            "Nodes that it needs do not answer or are drained: c[1-2]. The administrator knows.",
        ),
        ("SomethingNew", "The scheduler's reason: SomethingNew"),
    ],
)
def test_words_of_a_reason(reason: str, words: str) -> None:
    """Guards: families of limits by their parts, the nodes by name, and a word that nobody knows as it is."""
    assert reason_words(reason) == words


@pytest.mark.parametrize(
    "release", sorted(path.name for path in RECORDED.iterdir() if (path / "commands.tsv").exists())
)
def test_every_recorded_reason_is_known(release: str) -> None:
    """Guards: what a real SLURM gave as reason is not shown as a bare word."""
    text = "".join(path.read_text() for path in (RECORDED / release).glob("gateway-squeue*.stdout"))
    waiting = [each.sighting for each in squeue_records(text) if phase_of(each.sighting.state) is Phase.WAITING]
    assert len({each.reason for each in waiting}) >= 8
    assert not [each.reason for each in waiting if reason_words(each.reason).startswith("The scheduler's reason")]


def test_a_job_that_the_scheduler_does_not_have_yet_waits_for_divbase() -> None:
    """Guards: each state before the queue says what happens next."""
    assert waiting_words(JobState.ACCEPTED, None) == "DivBase has accepted it and hands it over to the scheduler next."
    assert waiting_words(JobState.SUBMITTING, None) == "DivBase is handing it over to the scheduler."
    assert waiting_words(JobState.SUBMIT_UNKNOWN, None) == (
        "The scheduler's answer was lost; DivBase looks for the job before it submits it again."
    )


def test_only_a_job_that_waits_has_a_reason_to() -> None:
    """Guards: SLURM keeps the last reason beside running and ended jobs."""
    assert waiting_words(JobState.QUEUED, "Priority") == "Jobs of higher priority come first."
    for state in JobState:
        if state in (JobState.RUNNING, JobState.FINALIZING) or state.is_end:
            assert waiting_words(state, "Priority") is None
