"""Why a job has not started, in words: the scheduler's reasons, who must do what about them, and which of them no job
gets over by itself. It knows words only; what became of the job is decided elsewhere.

Source: "Job Reason Codes" in SLURM's documentation, and the free text that slurmctld puts in a reason's place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from divbase_gateway.domain.jobs import JobState


@dataclass(frozen=True)
class _Wait:
    """`words`: a sentence that says why, and where somebody must act one that says who and how. `for_good`: a job
    that waits for this never starts unless somebody acts."""

    words: str
    for_good: bool = False


_FEWER = "cancel it and ask for less (fewer files, samples or regions)"
_NOT_SEEN_YET = _Wait("The scheduler has not come to it yet.")

_REASONS = {
    "": _NOT_SEEN_YET,
    "None": _NOT_SEEN_YET,
    "Priority": _Wait("Jobs of higher priority come first."),
    "Resources": _Wait("It waits for free cores or memory."),
    "Constraints": _Wait("No node that fits is free."),
    "Prolog": _Wait("Its node is being made ready."),
    "Cleaning": _Wait("Its node is still cleaning up after an earlier run."),
    "BeginTime": _Wait("Its earliest start has not come; a job that was requeued waits some minutes."),
    "SchedDefer": _Wait("The scheduler puts off jobs that have just come."),
    "FedJobLock": _Wait("The clusters of a federation agree on who starts it."),
    "BeingCancelled": _Wait("It is being cancelled."),
    "Licenses": _Wait("It waits for a licence that other jobs use."),
    "Reservation": _Wait("It waits for its reservation to begin."),
    "Dependency": _Wait("It waits for another job to end."),
    "JobArrayTaskLimit": _Wait("As many tasks of its array run as may run at once."),
    "BurstBufferResources": _Wait("It waits for room in the burst buffer."),
    "BurstBufferStageIn": _Wait("The burst buffer brings its data."),
    "PartitionDown": _Wait("Its partition starts no jobs at the moment. The cluster's administrator must open it."),
    "PartitionInactive": _Wait("Its partition takes and starts no jobs. The cluster's administrator must open it."),
    "PartitionNodeLimit": _Wait(
        "Its partition has not enough working nodes for it, or allows it none. The site's operator must look at it."
    ),
    "NodeDown": _Wait("A node that it needs is down. The cluster's administrator must bring it back."),
    "JobLaunchFailure": _Wait("It could not be started and is tried again. The site's operator can tell why."),
    "SystemFailure": _Wait("The cluster has a fault. The cluster's administrator must look at it."),
    "QOSUsageThreshold": _Wait("Its account has used too much lately for its QOS. It starts when that has faded."),
    "AccountingPolicy": _Wait("A limit of its account or QOS is reached. The cluster's administrator knows which."),
    "AssociationJobLimit": _Wait("As many jobs of its account run as may run at once. It starts when one has ended."),
    "QOSJobLimit": _Wait("As many jobs of its QOS run as may run at once. It starts when one has ended."),
    "AssociationResourceLimit": _Wait("Its account uses all that it may. It starts when other jobs have ended."),
    "QOSResourceLimit": _Wait("The jobs of its QOS use all that they may. It starts when some have ended."),
    "AssociationTimeLimit": _Wait(
        "Its account has used up its time. The cluster's administrator must give it more, or a new period begins."
    ),
    "QOSTimeLimit": _Wait(
        "Its QOS has used up its time. The cluster's administrator must give it more, or a new period begins."
    ),
    # What nobody gets over by waiting
    "DependencyNeverSatisfied": _Wait("A job that it depends on has failed; cancel it and ask again.", for_good=True),
    "PartitionConfig": _Wait(
        "Its partition does not allow such a job; the site's operator must look at it.", for_good=True
    ),
    "PartitionTimeLimit": _Wait(
        f"It asks for more time than its partition gives. Either {_FEWER}, or have the site's operator give the "
        "project a partition that allows it.",
        for_good=True,
    ),
    "MaxMemPerLimit": _Wait(
        f"It asks for more memory than its partition gives. Either {_FEWER}, or have the site's operator give the "
        "project a partition that allows it.",
        for_good=True,
    ),
    "BadConstraints": _Wait(
        f"No node of its partition could ever run it. Either {_FEWER}, or ask the site's operator.", for_good=True
    ),
    "JobHeldAdmin": _Wait("The cluster's administrator holds it.", for_good=True),
    "JobHeldUser": _Wait(
        "Somebody with the gateway's account at the cluster holds it; the site's operator can release it.",
        for_good=True,
    ),
    "JobHoldMaxRequeue": _Wait(
        "It was requeued too often and is held; cancel it, and let the site's operator look at its nodes.",
        for_good=True,
    ),
    "ReservationDeleted": _Wait(
        "Its reservation is gone; cancel it and ask again, or ask the site's operator.", for_good=True
    ),
    "BurstBufferOperation": _Wait("The burst buffer failed; the site's operator must look at it.", for_good=True),
    "DeadLine": _Wait("It can no longer end before its deadline; cancel it and ask again.", for_good=True),
    "InvalidAccount": _Wait(
        "The cluster does not know its account; the site's operator must give the project another.", for_good=True
    ),
    "InvalidQOS": _Wait(
        "The cluster does not know its QOS, or its account may not use it; the site's operator must give the project "
        "another.",
        for_good=True,
    ),
    "AccountNotAllowed": _Wait(
        "Its account may not use its partition; the site's operator must give the project another of either.",
        for_good=True,
    ),
    "QOSNotAllowed": _Wait(
        "Its account or partition may not use its QOS; the site's operator must give the project another.",
        for_good=True,
    ),
    "launch failed requeued held": _Wait(
        "It could not be started on its node and is held; the operator must look at it.", for_good=True
    ),
    "job requeued in held state": _Wait(
        "It was requeued and is held; the site's operator must release it or cancel it.", for_good=True
    ),
}

_THINGS = {
    "cpu": "cores",
    "mem": "memory",
    "memory": "memory",
    "node": "nodes",
    "jobs": "jobs",
    "wall": "time",
    "wallduration": "time",
    "license": "licences",
    "gres": "devices",
    "energy": "energy",
    "billing": "billing units",
    "bb": "burst buffer",
}
_WHOSE = {"Assoc": "its account", "QOS": "its QOS"}

# The families of SLURM's limits. `what` is the thing that is counted.
_OF_ONE_JOB = re.compile(r"(?P<whose>Assoc|QOS)Max(?P<what>\w+?)(?P<minutes>Minutes)?Per(Job|Node)(Limit)?")
_AT_LEAST = re.compile(r"(?P<whose>QOS)Min(?P<what>[A-Za-z]+?)(NotSatisfied)?")
_SUBMITTED = re.compile(r"(?P<whose>Assoc|QOS)?(Grp|Max)SubmitJobs?(PerUser|PerAccount)?(Limit)?")
_JOBS_AT_ONCE = re.compile(r"(?P<whose>Assoc|QOS)?(Grp|Max)Jobs(PerUser|PerAccount)?(Limit)?")
_TIME_AHEAD = re.compile(r"(?P<whose>Assoc|QOS)Grp(?P<what>\w+?)RunMinutes(Limit)?")
_TIME_USED = re.compile(r"(?P<whose>Assoc|QOS)Grp(?P<what>\w+?)Minutes(Limit)?")
_TOGETHER = re.compile(r"(?P<whose>Assoc|QOS)Grp(?P<what>\w+?)(Limit)?")
_OF_ONE_USER = re.compile(r"(?P<whose>Assoc|QOS)?Max(?P<what>\w+?)(PerUser|PerAccount)?(Limit)?")

_NODES_AWAY = re.compile(r"ReqNodeNotAvail(?:, *(?:UnavailableNodes:(?P<nodes>.*)|(?P<why>.+)))?")
_NO_NODES = "Nodes required for job are DOWN"
_NOT_PERMITTED = re.compile(r"Job's (account|QOS) not permitted to use this partition.*")


def waiting_words(state: JobState, slurm_reason: str | None) -> str | None:
    """Why a job in this state has not started; None for one that has, or that is over."""
    if state is JobState.ACCEPTED:
        return "DivBase has accepted it and hands it over to the scheduler next."
    if state is JobState.SUBMITTING:
        return "DivBase is handing it over to the scheduler."
    if state is JobState.SUBMIT_UNKNOWN:
        return "The scheduler's answer was lost; DivBase looks for the job before it submits it again."
    if state is JobState.SPREAD:
        return "Its shards are jobs of their own, and not all of them have succeeded."
    return reason_words(slurm_reason or "") if state is JobState.QUEUED else None


def shards_words(states: Sequence[JobState]) -> str:
    """What a query waits for whose shards are in these states: `Shards: 3 of 5 done, 1 running, 1 waiting.`"""
    done = states.count(JobState.SUCCEEDED)
    running = states.count(JobState.RUNNING) + states.count(JobState.FINALIZING)
    ended_badly = sum(state.is_end for state in states) - done
    waiting = len(states) - done - running - ended_badly
    counted = ((running, "running"), (waiting, "waiting"), (ended_badly, "without success"))
    words = [f"{done} of {len(states)} done", *(f"{count} {name}" for count, name in counted if count)]
    return f"Shards: {', '.join(words)}."


def reason_words(slurm_reason: str) -> str:
    """What the scheduler's reason to let a job wait means; a reason that is not known is given as it is."""
    known = _wait_for(slurm_reason)
    return f"The scheduler's reason: {slurm_reason}" if known is None else known.words


def stuck_words(slurm_reason: str) -> str | None:
    """Why a waiting job will not start by itself, or None."""
    known = _wait_for(slurm_reason)
    return known.words if known is not None and known.for_good else None


class Queued(NamedTuple):
    """A job that waits, by its number with us. `priority` None, where the scheduler has none, comes last."""

    number: int
    partition: str | None
    priority: int | None
    submitted_at: datetime


def queue_places(queued: Iterable[Queued]) -> dict[int, tuple[int, int]]:
    """By the job's number its place, from 1, and the length of the queue: of these jobs in the same partition, those
    of higher priority first, then those that were submitted earlier."""
    queues: dict[str | None, list[tuple[int, datetime, int]]] = {}
    for job in queued:
        queues.setdefault(job.partition, []).append((-(job.priority or 0), job.submitted_at, job.number))
    return {
        number: (place, len(queue))
        for queue in queues.values()
        for place, (_, _, number) in enumerate(sorted(queue), start=1)
    }


@lru_cache(maxsize=1024)  # every look asks it of every job that waits
def _wait_for(slurm_reason: str) -> _Wait | None:
    # Newer releases write free text with _ for every blank, so that it is one word.
    reason = slurm_reason.strip()
    return _REASONS.get(reason) or _REASONS.get(reason.replace("_", " ")) or _of_nodes(reason) or _of_a_limit(reason)


def _of_nodes(reason: str) -> _Wait | None:
    text = reason.replace("_", " ")
    if text.startswith(_NO_NODES):
        return _Wait("The nodes that could run it are down, drained or kept for more important jobs.")
    if _NOT_PERMITTED.fullmatch(text):
        return _REASONS["AccountNotAllowed" if "account" in text else "QOSNotAllowed"]
    match = _NODES_AWAY.fullmatch(reason)
    if match is None:
        return None
    if match["nodes"]:
        return _Wait(f"Nodes that it needs do not answer or are drained: {match['nodes']}. The administrator knows.")
    more = f" ({match['why'].replace('_', ' ')})" if match["why"] else ""
    return _Wait(f"The nodes that it needs are reserved, for maintenance perhaps, busy or down{more}.")


def _of_a_limit(reason: str) -> _Wait | None:
    for pattern, wait in _LIMITS:
        match = pattern.fullmatch(reason)
        if match is not None:
            named = match.groupdict()
            what = (named.get("what") or "").lower()
            whose = _WHOSE[named.get("whose") or "QOS"]  # limits a user or an account without a name are a QOS's
            thing = _THINGS.get(what, "one resource") + (" and time" if named.get("minutes") else "")
            return _Wait(wait.words.format(whose=whose, thing=thing), wait.for_good)
    return None


_LIMITS = (
    (
        _OF_ONE_JOB,
        _Wait(
            f"It is over the limit for {{thing}} that {{whose}} gives one job. Either {_FEWER}, or have the cluster's "
            "administrator raise the limit.",
            for_good=True,
        ),
    ),
    (
        _AT_LEAST,
        _Wait("It asks for fewer {thing} than {whose} takes; the site's operator must choose another.", for_good=True),
    ),
    (_SUBMITTED, _Wait("As many jobs of {whose} are in the queue as may be. It goes on when some have ended.")),
    (_JOBS_AT_ONCE, _Wait("As many jobs of {whose} run as may run at once. It starts when some have ended.")),
    (
        _TIME_AHEAD,
        _Wait("The running jobs of {whose} have as much time before them as they may. It starts when some have ended."),
    ),
    (
        _TIME_USED,
        _Wait(
            "The time of {whose} is used up ({thing}). The cluster's administrator must give it more, or a new period "
            "begins."
        ),
    ),
    (
        _TOGETHER,
        _Wait("The running jobs of {whose} are at its limit for {thing}. It starts when some have ended."),
    ),
    (
        _OF_ONE_USER,
        _Wait("DivBase's jobs are at the limit for {thing} that {whose} gives one user. It starts when some ended."),
    ),
)
"""The first that matches counts: the narrower before the wider."""
