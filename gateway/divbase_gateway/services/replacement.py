"""Putting a repaired file in the place of the one that was read: joined from its parts when its job has succeeded
otherwise, only where nobody has changed the file meanwhile, and removed again where anything speaks against it.

Until then nothing of it is to be seen in the bucket. Each step can be repeated after a kill; versions are known by
their mark, which names the attempt. The store is asked outside of transactions.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Any

from sqlalchemy.orm import Session

from divbase_gateway.db import files as rows
from divbase_gateway.db.index_maps import replace_index_maps
from divbase_gateway.db.models import AttemptRow, FileVersionRow, JobRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import Conflict, NotFound
from divbase_gateway.domain.files import FileState
from divbase_gateway.domain.jobs import JobState, Reason, Report, words_for
from divbase_gateway.domain.repairs import KIND, RepairPlan
from divbase_gateway.ports import ObjectInfo, ObjectStore, ObjectVersion, Part
from divbase_gateway.services import catalogue, versions
from divbase_gateway.services.attempts import MARK, mark_of, output_keys
from divbase_gateway.services.plans import repair_plan_of
from divbase_gateway.services.versions import Look


@dataclass(frozen=True)
class Delivery:
    """What a repair says that it has sent.

    Attributes:
        job, mark: its public id, and what marks the versions of this attempt.
        upload: the store's id of the multipart upload of the file, with the MD5 of each part in hex.
        etag: that follows from these MD5s.
    """

    project_id: int
    bucket: str
    job: str
    mark: str
    plan: RepairPlan
    upload: str
    md5s: tuple[str, ...]
    size: int
    sha256: str
    etag: str
    index_key: str
    index_version_id: str


@dataclass(frozen=True)
class Replacement:
    """The file's new version, in its place, and what the catalogue is to say of it."""

    look: Look
    made_at: datetime

    @property
    def version_id(self) -> str:
        return self.look.file.version_id


def delivery_of(attempt: AttemptRow, job: JobRow, bucket: str) -> Delivery | None:
    """What a repair reported as its success; None for any other job and any other report."""
    report = attempt.report or {}
    outputs: dict[str, dict[str, Any]] = {each["role"]: each for each in report.get("outputs") or []}
    announced = next((each for each in attempt.uploads if each["role"] == "result"), None)
    if job.kind != KIND or report.get("status") != "succeeded" or announced is None:
        return None
    if not {"result", "index"} <= outputs.keys():
        return None
    result, index = outputs["result"], outputs["index"]
    md5s = result.get("md5s") or announced.get("md5s") or []
    return Delivery(
        project_id=job.project_id,
        bucket=bucket,
        job=job.public_id,
        mark=mark_of(job, attempt.number),
        plan=repair_plan_of(job),
        upload=announced["upload"],
        md5s=tuple(base64.b64decode(each).hex() for each in md5s),
        size=result["size"],
        sha256=result["sha256"],
        etag=result["etag"],
        index_key=output_keys(job)["index"],
        index_version_id=index["version_id"],
    )


# --- in the store ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Survey:
    """The versions of the file down to the one that was read.

    Attributes:
        mine: this attempt's version.
        stale: those of earlier attempts of the same job, which came to nothing.
        above, below: what others did, after mine (or at all), and between mine and what was read.
        deleted: a delete marker is on top.
        complete: the version that was read is still there.
    """

    mine: ObjectInfo | None
    stale: tuple[ObjectInfo, ...]
    above: int
    below: int
    deleted: bool
    complete: bool

    @property
    def is_untouched(self) -> bool:
        return self.complete and self.mine is None and not self.above

    @property
    def is_in_place(self) -> bool:
        return self.complete and self.mine is not None and not self.below and not self.deleted


def put_in_place(database: Database, store: ObjectStore, delivery: Delivery) -> Replacement | Report:
    """Make what was delivered the file's newest version, or say why not; then nothing of it is left.

    Raises:
        StoreUnavailable: nothing follows from that; call again.
    """
    survey = _survey(store, delivery)
    for info in survey.stale:
        _remove(database, store, delivery.project_id, delivery.bucket, info)
    if survey.is_untouched:
        refusal = _join(store, delivery)
        if refusal is not None:
            return refusal
        survey = _survey(store, delivery)
    if survey.mine is None:
        return Report(Reason.SUPERSEDED, words_for(Reason.SUPERSEDED))
    if not survey.is_in_place:
        _remove(database, store, delivery.project_id, delivery.bucket, survey.mine)
        return Report(Reason.SUPERSEDED, words_for(Reason.SUPERSEDED))
    return _catalogue(database, store, delivery, survey.mine)


def _survey(store: ObjectStore, delivery: Delivery) -> _Survey:
    there = _versions_of(store, delivery.bucket, delivery.plan.key)
    newer = list(takewhile(lambda each: each.version_id != delivery.plan.version_id, there))
    mine: ObjectInfo | None = None
    stale: list[ObjectInfo] = []
    above = below = 0
    for entry in newer:
        info = None if entry.deleted else store.head(delivery.bucket, entry.key, entry.version_id)
        mark = info.metadata.get(MARK, "") if info else ""
        if info is not None and mark == delivery.mark and mine is None:
            mine = info
        elif info is not None and mark.rpartition(".")[0] == delivery.job:
            stale.append(info)
        elif mine is None:
            above += 1
        else:
            below += 1
    deleted = bool(newer) and newer[0].deleted
    return _Survey(mine, tuple(stale), above, below, deleted, complete=len(newer) < len(there))


def _versions_of(store: ObjectStore, bucket: str, key: str) -> list[ObjectVersion]:
    """Every version and delete marker of a key, newest first; a key comes first among those that begin with it."""
    return list(takewhile(lambda each: each.key == key, store.list_versions(bucket, key)))


def _join(store: ObjectStore, delivery: Delivery) -> Report | None:
    parts = [Part(number, md5, 0) for number, md5 in enumerate(delivery.md5s, start=1)]
    try:
        info = store.complete_multipart(delivery.bucket, delivery.plan.key, delivery.upload, parts)
    except (Conflict, NotFound) as error:
        return Report(Reason.UPLOAD_FAILED, f"The store has not what the job says that it sent: {error.message}")
    if info.metadata.get(MARK) != delivery.mark:  # an equal version of long ago, and the upload is forgotten
        return Report(Reason.UPLOAD_FAILED, words_for(Reason.UPLOAD_FAILED))
    return None


def _catalogue(database: Database, store: ObjectStore, delivery: Delivery, info: ObjectInfo) -> Replacement | Report:
    """What the catalogue will say of the new version; it is removed where that is not READY."""
    words = f"{info.size} bytes with ETag {info.etag} are not those that were sent"
    if (info.size, info.etag) == (delivery.size, delivery.etag):
        try:
            index = store.head(delivery.bucket, delivery.index_key, delivery.index_version_id)
            seen = catalogue.inspect(store, delivery.bucket, info, delivery.sha256, (index,))
        except NotFound as error:
            words = error.message
        else:
            if seen.file.state is FileState.READY:
                return Replacement(Look(seen.file, (index,), seen.maps), info.modified_at)
            words = seen.file.reason or seen.index_warning or ""
    _remove(database, store, delivery.project_id, delivery.bucket, info)
    return Report(Reason.RESULT_MISMATCH, f"What the repair made cannot be used, and was removed: {words}")


def _remove(database: Database, store: ObjectStore, project_id: int, bucket: str, info: ObjectInfo) -> None:
    """Remove a version of ours, unless a refresh has made it a version of the file: then it is the users' own."""
    with database.read() as session:
        recorded = _is_recorded(session, project_id, info)
    if not recorded:
        with suppress(NotFound):
            store.delete_version(bucket, info.key, info.version_id)


def _is_recorded(session: Session, project_id: int, info: ObjectInfo) -> bool:
    file = rows.find_file(session, project_id, info.key)
    return file is not None and rows.find_version(session, file.id, info.version_id) is not None


# --- in the database ---------------------------------------------------------------------------------------------


def record(session: Session, job: JobRow, replacement: Replacement, now: datetime) -> None:
    """Make the new version the file's current one; where the file has changed since, it stays an earlier one."""
    plan, seen = repair_plan_of(job), replacement.look.file
    file = rows.claim_file(session, job.project_id, plan.key)
    current = session.get(FileVersionRow, file.current_id) if file.current_id else None
    newer = None if current is None or current.version_id == plan.version_id else current.version_id
    deleted = file.deleted_at, file.delete_marker
    recorded, version = versions.record(
        session,
        job.project_id,
        replacement.look,
        uploaded_by=job.user,
        asked_by=job.user,
        uploaded_at=replacement.made_at,
        now=now,
        latest=newer,
    )
    recorded.deleted_at, recorded.delete_marker = deleted
    if version.state != FileState.READY:  # a refresh has seen it before, without its index
        rows.set_catalogued(version, seen)
        replace_index_maps(session, version.id, replacement.look.maps)
    session.flush()


def in_results(outputs: Sequence[dict[str, Any]], replacement: Replacement | None) -> list[dict[str, Any]]:
    """The outputs that a job reported; a repaired file has got its version by now."""
    if replacement is None:
        return list(outputs)
    version = {"version_id": replacement.version_id}
    return [{**each, **version} if each["role"] == "result" else each for each in outputs]


# --- afterwards --------------------------------------------------------------------------------------------------


def clear(database: Database, store: ObjectStore, job: JobRow) -> None:
    """Remove what an ended repair left that nobody uses: indexes but its result's, and after a failure its file.

    Raises:
        StoreUnavailable: repeat the call.
    """
    bucket, plan = job.project.bucket, repair_plan_of(job)
    index_key = output_keys(job)["index"]
    kept = {each["version_id"] for each in job.results if each["role"] == "index"}
    for entry in _versions_of(store, bucket, index_key):
        if entry.version_id not in kept:
            with suppress(NotFound):
                store.delete_version(bucket, index_key, entry.version_id)
    if job.state == JobState.SUCCEEDED:
        return
    newer = takewhile(lambda each: each.version_id != plan.version_id, _versions_of(store, bucket, plan.key))
    for entry in newer:
        info = None if entry.deleted else store.head(bucket, entry.key, entry.version_id)
        if info is not None and info.metadata.get(MARK, "").rpartition(".")[0] == job.public_id:
            _remove(database, store, job.project_id, bucket, info)
