"""Shards of a query as jobs of their own: when the query's job may join what they made, when it has failed for theirs,
and when that is removed again. They are submitted, followed and settled like any other job, elsewhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.orm import Session

from divbase_gateway.db import jobs as job_rows
from divbase_gateway.db import shards as rows
from divbase_gateway.db.models import AttemptRow, JobRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import NotFound
from divbase_gateway.domain.jobs import HOPELESS, JobState, Reason
from divbase_gateway.ports import ObjectStore
from divbase_gateway.services.attempts import shard_folder
from divbase_gateway.services.jobs import cancel_shards, end_job, set_results, set_state
from divbase_gateway.services.rounds import Round

log = structlog.get_logger()

_WORST_FIRST = (JobState.FAILED, JobState.LOST, JobState.CANCELLED)


@dataclass(frozen=True)
class Due:
    """Ids of queries of which something is to be done: decided by their shards, or what those made removed."""

    to_settle: Sequence[int]
    to_clear: Sequence[int]


def due(database: Database, now: datetime, limit: int) -> Due:
    """What is to be done now; two statements, whatever there is."""
    with database.read() as session:
        return Due(_undecided(rows.standings(session)), rows.to_clear(session, now, limit))


def settle(database: Database, parent_id: int, now: datetime) -> bool:
    """Bring one query into line with its shards. True if it is ready to be submitted now."""
    with database.write() as session:
        parent = settle_one(session, parent_id, now)
        if parent is None or parent.state == JobState.SPREAD:
            return False
        log.info("job.shards_settled", job=parent.public_id, state=parent.state, reason=parent.reason)
        return parent.state == JobState.ACCEPTED


def _undecided(standings: Sequence[rows.Standing]) -> list[int]:
    """Queries of which something is to be decided: all shards have ended, or some are in vain now."""
    of_parent: dict[int, list[rows.Standing]] = defaultdict(list)
    for each in standings:
        of_parent[each.parent_id].append(each)
    return [parent for parent, shards in of_parent.items() if _all_ended(shards) or _in_vain(shards)]


def _all_ended(shards: Sequence[rows.Standing]) -> bool:
    return all(JobState(each.state).is_end for each in shards)


def _in_vain(shards: Sequence[rows.Standing]) -> bool:
    hopeless = any(each.state == JobState.FAILED and each.reason in HOPELESS for each in shards)
    return hopeless and any(not JobState(each.state).is_end and not each.cancel_requested for each in shards)


def settle_one(session: Session, parent_id: int, now: datetime) -> JobRow | None:
    """Decide about one query, whose row is held and then its shards'.

    A shard that failed leaves the others at work, because a rerun needs what they make; but not where every rerun would
    fail like it. The query ends when all of them have.
    """
    parent = job_rows.lock_job(session, parent_id)
    if parent is None or parent.state != JobState.SPREAD:
        return None
    shards = rows.shards_of(session, parent_id, lock=True)
    failed = [shard for shard in shards if JobState(shard.state).is_end and shard.state != JobState.SUCCEEDED]
    if any(shard.reason in HOPELESS for shard in failed):
        cancel_shards(shards, now)
    if not all(JobState(shard.state).is_end for shard in shards):
        return parent
    if parent.cancel_requested_at is not None:
        end_job(parent, JobState.CANCELLED, now, Reason.CANCELLED, "The job was cancelled at the user's request.")
    elif failed:
        _fail(parent, shards, failed, now)
    else:
        parent.gathers = [_gathered(shard) for shard in shards]
        set_state(parent, JobState.ACCEPTED, now)
    return parent


def _fail(parent: JobRow, shards: Sequence[JobRow], failed: Sequence[JobRow], now: datetime) -> None:
    """End the query as its worst shard ended, in the words of that."""
    in_vain = [shard for shard in failed if shard.cancel_requested_at is not None]
    own = [shard for shard in failed if shard not in in_vain] or failed
    worst = min(own, key=lambda shard: _WORST_FIRST.index(JobState(shard.state)))
    for shard in in_vain:
        shard.message = f"It was ended because {_named(worst)} failed, and would in any other run."
    others = [str(shard.task) for shard in own if shard is not worst]
    words = [
        f"{_named(worst).capitalize()} {_ENDED[JobState(worst.state)]}: {worst.message}",
        f"So did not succeed: {', '.join(others)}." if others else "",
        f"{len(shards) - len(failed)} of {len(shards)} shards have succeeded; "
        f"`divbase jobs rerun {parent.public_id}` runs only the others.",
    ]
    reason = Reason(worst.reason) if worst.reason else None
    end_job(parent, JobState(worst.state), now, reason, " ".join(filter(None, words)))


_ENDED = {JobState.FAILED: "failed", JobState.LOST: "was lost", JobState.CANCELLED: "was cancelled"}


def _named(shard: JobRow) -> str:
    """`shard 2 of 5 (chr21:1-500)`, from its name."""
    name, _, regions = shard.name.partition(": ")
    return f"{name} ({regions})" if regions else name


def _gathered(shard: JobRow) -> dict[str, Any]:
    """What the query's job has to know of a shard that succeeded: what it made, and how, for the provenance."""
    made = next(each for each in shard.results if each["role"] == "result")
    attempt = next(each for each in shard.attempts if each.number == shard.attempt)
    report = attempt.report or {}
    return {
        "number": shard.task,
        **{name: made[name] for name in ("key", "version_id", "size", "etag", "sha256")},
        "job": shard.public_id,
        "attempt": attempt.number,
        "node": attempt.node,
        "regions": shard.plan["regions"],
        "commands": [["bcftools", *process["argv"]] for process in shard.plan["processes"]],
        "bytes_read": shard.plan["bytes_needed"],
        **{name: report.get(name) for name in ("tools", "counts", "timings")},
    }


# --- afterwards ----------------------------------------------------------------------------------------------------


def clear(database: Database, store: ObjectStore, parent_ids: Sequence[int], now: datetime) -> None:
    """Remove what the shards of these queries made, every version. It may be interrupted and done again.

    The rows forget it first, so that a rerun never builds on what is being removed.

    Raises:
        StoreUnavailable: some bucket refused, and what it has waits for the next tick.
    """
    turn = Round()
    for parent_id in parent_ids:
        with database.write() as session:
            parent = _forget(session, parent_id, now)
        if parent is not None and not turn.skips(parent.project.bucket):
            with turn.at(parent.project.bucket):
                _clear(database, store, parent, now)
    turn.end()


def _clear(database: Database, store: ObjectStore, parent: JobRow, now: datetime) -> None:
    bucket = parent.project.bucket
    try:
        found = list(store.list_versions(bucket, shard_folder(parent.public_id)))
    except NotFound:  # the bucket, and with it all of them
        found = []
    with database.write() as session:
        current = job_rows.lock_job(session, parent.id)
        if current is None or not _is_due(current, now):  # done by another gateway, and perhaps run again
            return
    for each in found:
        with suppress(NotFound):
            store.delete_version(bucket, each.key, each.version_id)
    with database.write() as session:
        current = job_rows.lock_job(session, parent.id)
        if current is not None and _is_due(current, now):
            current.shards_until = None
            for shard in rows.shards_of(session, parent.id, lock=True):
                set_results(shard, [])
    log.info("job.shards_cleared", job=parent.public_id)


def _forget(session: Session, parent_id: int, now: datetime) -> JobRow | None:
    """The query, whose shards have no results now; None where it is not time, because something may yet be written."""
    parent = job_rows.lock_job(session, parent_id)
    if parent is None or not _is_due(parent, now):
        return None
    shards = rows.shards_of(session, parent_id, lock=True)
    if any(map(_is_loose, (attempt for shard in shards for attempt in shard.attempts))):
        return None
    for shard in shards:
        shard.results = []  # its bytes count until it is gone
    return parent


def _is_due(parent: JobRow, now: datetime) -> bool:
    return parent.shards_until is not None and parent.shards_until <= now


def _is_loose(attempt: AttemptRow) -> bool:
    """Whether its log is still to be stored and its directory to be removed."""
    submitted = attempt.slurm_job_id is not None and attempt.submitted_at is not None
    return attempt.outcome is not None and attempt.discarded_at is None and submitted
