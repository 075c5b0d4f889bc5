"""Uploads: begun, resumed, completed, aborted. The bytes go from the user to S3; here they are announced and verified.

S3 is only talked to outside of write transactions, so that many uploads that end together do not wait for one
another's S3 requests. It knows no settings file and no HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

import structlog
from sqlalchemy.orm import Session

from divbase_gateway.db import files as file_rows
from divbase_gateway.db import uploads as rows
from divbase_gateway.db.models import FileVersionRow, ProjectRow, UploadRow, UserRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.checksums import etag_of_parts, md5_of_etag
from divbase_gateway.domain.errors import Conflict, InvalidRequest, NotFound, StoreUnavailable
from divbase_gateway.domain.files import FileFormat, validate_key
from divbase_gateway.domain.ids import new_id
from divbase_gateway.ports import Audience, Clock, ObjectInfo, ObjectStore, Part, PresignedRequest
from divbase_gateway.services import snapshots, storage, versions
from divbase_gateway.services.policy import JobPolicy
from divbase_gateway.services.rounds import Round
from divbase_gateway.services.versions import StoredFile

log = structlog.get_logger()

MAX_PARTS = 10_000
"""S3's limit for one upload."""

UPLOAD_MARK = "divbase-upload"
"""Metadata of every object that came through here: the id of its upload, by which a lost answer is found again."""

UPLOAD_LIFETIME = timedelta(days=7)
"""How long an upload may be open; until then a refresh leaves alone what it has put into the bucket."""

_MIB = 1024 * 1024


@dataclass(frozen=True)
class UploadLimits:
    """The site's choices. Sizes in bytes; `allowed_suffixes` empty for all file types."""

    part_size: int
    max_size: int
    allowed_suffixes: tuple[str, ...]
    url_expiry: timedelta


@dataclass(frozen=True)
class NewContent:
    """What somebody wants to upload: `size` in bytes, `sha256` in hex, of the whole."""

    key: str
    size: int
    sha256: str


class UploadMode(StrEnum):
    UNCHANGED = "unchanged"
    SINGLE = "single"
    MULTIPART = "multipart"


@dataclass(frozen=True)
class BegunUpload:
    """The answer to a begin: `parts` are those that S3 already has; `file` is set for UNCHANGED only."""

    id: str | None
    mode: UploadMode
    part_size: int | None = None
    parts: tuple[Part, ...] = ()
    file: StoredFile | None = None


@dataclass(frozen=True)
class Prepared:
    """A begin as far as S3 goes. `is_new`: the row is still to be written; `replaces` an upload that S3 forgot."""

    begun: BegunUpload
    content: NewContent
    s3_upload_id: str | None = None
    is_new: bool = False
    replaces: str | None = None


@dataclass(frozen=True)
class OpenUpload:
    """An upload's row as a value; `done` is the file that it became, once it is completed."""

    id: str
    content: NewContent
    part_size: int | None
    s3_upload_id: str | None
    done: StoredFile | None = field(default=None)

    @property
    def part_sizes(self) -> list[int]:
        """Sizes of all parts in order; a single PUT is one part, also of an empty file."""
        if self.part_size is None:
            return [self.content.size]
        whole, rest = divmod(self.content.size, self.part_size)
        return [self.part_size] * whole + ([rest] if rest else [])


def part_size_for(size: int, part_size: int) -> int:
    """The part size for a file: the site's, or the smallest whole number of MiB with which 10,000 parts suffice."""
    needed = -(-size // MAX_PARTS)
    return part_size if needed <= part_size else -(-needed // _MIB) * _MIB


# --- begin ---------------------------------------------------------------------------------------------------------


def prepare_upload(
    database: Database,
    store: ObjectStore,
    clock: Clock,
    limits: UploadLimits,
    project: ProjectRow,
    user: UserRow,
    content: NewContent,
    policy: JobPolicy,
) -> Prepared:
    """Find out what is to be sent, and begin a multipart upload at S3 where that is needed.

    No row is written, but where S3 has the whole object already and the gateway died before it was recorded: that is
    finished here.

    Raises:
        InvalidName: the key, or its type, is not allowed.
        InvalidRequest: the file is too large.
        StorageFull: the project has no room for it.
        StoreUnavailable: S3 does not answer.
    """
    validate_key(content.key, limits.allowed_suffixes)
    _check_size(content, limits)
    with database.read() as session:
        same = _same_content(session, project.id, content)
        row = rows.find_open_upload(session, project.id, content.key, content.size, content.sha256)
        open_upload = _open_upload(session, row) if row else None
    if same is not None:
        return Prepared(BegunUpload(None, UploadMode.UNCHANGED, file=same), content)
    if open_upload is not None:
        parts = _parts_there(store, project.bucket, open_upload)
        if parts is not None:
            return Prepared(_begun(open_upload, parts), content)
        joined = _find_object(store, project.bucket, open_upload)
        if joined is not None and joined.size == content.size:
            latest = _latest_version(store, project.bucket, content.key)
            file = _record_completed(database, store, clock, project, user, open_upload, joined, latest)
            return Prepared(BegunUpload(None, UploadMode.UNCHANGED, file=file), content)
    with database.read() as session:
        forgotten = open_upload.content.size if open_upload else 0
        storage.check_upload(session, project, policy, content.key, content.size, instead_of=forgotten)
    return _prepare_anew(store, limits, project, content, open_upload.id if open_upload else None)


def record_upload(
    session: Session, prepared: Prepared, project: ProjectRow, user: UserRow, policy: JobPolicy, now: datetime
) -> BegunUpload:
    """Write the row of a prepared upload.

    Raises:
        StorageFull: meanwhile others have begun to fill the project; `withdraw` what was prepared.
    """
    if prepared.replaces:
        forgotten = rows.find_upload(session, project.id, prepared.replaces, lock=True)
        if forgotten is not None and forgotten.completed_at is None:
            session.delete(forgotten)
            session.flush()
    if prepared.is_new:
        storage.check_upload_locked(session, project.id, policy, prepared.content.key, prepared.content.size)
        session.add(
            UploadRow(
                public_id=prepared.begun.id,
                project_id=project.id,
                user_id=user.id,
                key=prepared.content.key,
                size=prepared.content.size,
                sha256=prepared.content.sha256,
                part_size=prepared.begun.part_size,
                s3_upload_id=prepared.s3_upload_id,
                created_at=now,
            )
        )
    session.flush()
    return prepared.begun


def withdraw(store: ObjectStore, project: ProjectRow, prepared: Prepared) -> None:
    """End at S3 what was begun there for an upload that is refused in the end.

    Where S3 does not answer, it keeps an upload without parts.
    """
    if prepared.is_new and prepared.s3_upload_id is not None:
        with suppress(StoreUnavailable):
            store.abort_multipart(project.bucket, prepared.content.key, prepared.s3_upload_id)


def _check_size(content: NewContent, limits: UploadLimits) -> None:
    if content.size > limits.max_size:
        raise InvalidRequest(
            f"{content.key!r} is {content.size:,} bytes long; the largest file accepted here has {limits.max_size:,}.",
            hint="Split it, for example by chromosome; queries combine the parts again.",
            details={"key": content.key, "size": content.size, "max_size": limits.max_size},
        )


def _same_content(session: Session, project_id: int, content: NewContent) -> StoredFile | None:
    file = file_rows.find_file(session, project_id, content.key)
    if file is None or file.deleted_at is not None or file.current is None:
        return None
    if (file.current.size, file.current.sha256) != (content.size, content.sha256):
        return None
    return versions.stored_file(file, file.current)


def _prepare_anew(
    store: ObjectStore, limits: UploadLimits, project: ProjectRow, content: NewContent, replaces: str | None
) -> Prepared:
    upload_id = new_id(16)
    if content.size <= limits.part_size:
        begun = BegunUpload(upload_id, UploadMode.SINGLE)
        return Prepared(begun, content, is_new=True, replaces=replaces)
    s3_upload_id = store.start_multipart(project.bucket, content.key, _metadata(upload_id, content))
    begun = BegunUpload(upload_id, UploadMode.MULTIPART, part_size_for(content.size, limits.part_size))
    return Prepared(begun, content, s3_upload_id, is_new=True, replaces=replaces)


def _begun(upload: OpenUpload, parts: Sequence[Part]) -> BegunUpload:
    mode = UploadMode.SINGLE if upload.s3_upload_id is None else UploadMode.MULTIPART
    return BegunUpload(upload.id, mode, upload.part_size, tuple(parts))


def _parts_there(store: ObjectStore, bucket: str, upload: OpenUpload) -> list[Part] | None:
    """The parts that need not be sent again; None where S3 knows nothing of the upload any more."""
    if upload.s3_upload_id is None:
        info = _find_object(store, bucket, upload)
        return [Part(1, info.etag, info.size)] if info and info.size == upload.content.size else []
    sizes = upload.part_sizes
    try:
        parts = store.list_parts(bucket, upload.content.key, upload.s3_upload_id)
    except NotFound:
        return None
    return [part for part in parts if part.number <= len(sizes) and part.size == sizes[part.number - 1]]


def _metadata(upload_id: str, content: NewContent) -> dict[str, str]:
    return {"sha256": content.sha256, UPLOAD_MARK: upload_id}


# --- URLs ----------------------------------------------------------------------------------------------------------


def sign_parts(
    session: Session,
    store: ObjectStore,
    limits: UploadLimits,
    project: ProjectRow,
    upload_id: str,
    md5s: Sequence[tuple[int, str]],
) -> list[tuple[int, PresignedRequest]]:
    """A request for each (number, base64 MD5): S3 takes those bytes and no others. Makes no call to S3.

    Raises:
        NotFound: no such upload.
        Conflict: it is completed.
        InvalidRequest: there is no part of that number.
    """
    upload = _get_upload(session, project, upload_id)
    if upload.done is not None:
        raise Conflict(f"The upload of {upload.content.key!r} is completed.", details={"key": upload.content.key})
    count = len(upload.part_sizes)
    for number, _ in md5s:
        if number > count:
            raise InvalidRequest(
                f"The upload of {upload.content.key!r} has {count} part(s); there is no part {number}.",
                details={"upload": upload_id, "number": number, "parts": count},
            )
    return [(number, _signed(store, limits, project.bucket, upload, number, md5)) for number, md5 in md5s]


def _signed(
    store: ObjectStore, limits: UploadLimits, bucket: str, upload: OpenUpload, number: int, md5: str
) -> PresignedRequest:
    key = upload.content.key
    if upload.s3_upload_id is None:
        metadata = _metadata(upload.id, upload.content)
        return store.presign_put(bucket, key, Audience.LAPTOP, limits.url_expiry, md5, metadata)
    return store.presign_part(bucket, key, upload.s3_upload_id, number, Audience.LAPTOP, limits.url_expiry, md5)


# --- complete ------------------------------------------------------------------------------------------------------


def complete_upload(
    database: Database,
    store: ObjectStore,
    clock: Clock,
    project: ProjectRow,
    user: UserRow,
    upload_id: str,
    parts: Sequence[Part],
) -> StoredFile:
    """Verify what arrived, catalogue it and record it as the file's version. Safe to repeat, also at the same time.

    If the gateway dies between S3's part and ours, the next call finds the object by its upload mark and goes on.

    Args:
        parts: all of them in order, `etag` being the hex MD5 of the bytes that were sent.

    Raises:
        NotFound: no such upload.
        InvalidRequest: the parts cannot be those of this upload.
        Conflict: parts are missing, or other bytes arrived; the message says what to send again.
        StoreUnavailable: S3 went away; nothing is recorded, repeat the call.
    """
    with database.read() as session:
        upload = _get_upload(session, project, upload_id)
    stored = upload.done or _complete(database, store, clock, project, user, upload, parts)
    if stored.format is FileFormat.INDEX:
        versions.adopt_user_index(database, store, project, stored.key)
    return stored


def _complete(
    database: Database,
    store: ObjectStore,
    clock: Clock,
    project: ProjectRow,
    user: UserRow,
    upload: OpenUpload,
    parts: Sequence[Part],
) -> StoredFile:
    _check_stated(upload, parts)
    info = _join(store, project.bucket, upload, parts)
    if info.size != upload.content.size or info.etag != _etag_of(upload, parts):
        return _refuse_object(database, store, project, upload, info)
    latest = _latest_version(store, project.bucket, upload.content.key)
    stored = _record_completed(database, store, clock, project, user, upload, info, latest)
    if stored.version_id != info.version_id:  # two completes at once made two equal versions
        _remove_version(database, store, project, info)
    return stored


def _record_completed(
    database: Database,
    store: ObjectStore,
    clock: Clock,
    project: ProjectRow,
    user: UserRow,
    upload: OpenUpload,
    info: ObjectInfo,
    latest: str | None,
) -> StoredFile:
    for last in (False, False, True):
        look = versions.look_at(database, store, project, info, upload.content.sha256)
        with database.write() as session:
            row = rows.find_upload(session, project.id, upload.id, lock=True)
            if row is None:
                break
            done = _done(session, row)
            if done is not None:
                return done
            if not last and versions.index_candidates(session, project.id, info.key) != look.candidates:
                continue  # its index arrived while we looked
            now = clock.now()
            file, version = versions.record(
                session,
                project.id,
                look,
                uploaded_by=session.get_one(UserRow, user.id),
                asked_by=user,
                uploaded_at=now,
                now=now,
                latest=latest,
            )
            row.completed_at, row.version_row_id = now, version.id
            return versions.stored_file(file, version)
    _remove_version(database, store, project, info)
    raise Conflict(
        f"The upload of {upload.content.key!r} was aborted while it was being completed.",
        hint="Upload the file again.",
        details={"upload": upload.id, "key": upload.content.key},
    )


def _check_stated(upload: OpenUpload, parts: Sequence[Part]) -> None:
    sizes = upload.part_sizes
    if [part.number for part in parts] != list(range(1, len(sizes) + 1)):
        raise InvalidRequest(
            f"The upload of {upload.content.key!r} has {len(sizes)} part(s); name all of them, in order.",
            details={"upload": upload.id, "parts": len(sizes)},
        )
    for part in parts:
        _check_md5(upload, part)
    wrong = [part.number for part, size in zip(parts, sizes, strict=True) if part.size != size]
    if wrong:
        raise InvalidRequest(
            f"Part {wrong[0]} of {upload.content.key!r} has to be {sizes[wrong[0] - 1]:,} bytes long, "
            f"not {parts[wrong[0] - 1].size:,}.",
            details={"upload": upload.id, "numbers": wrong},
        )


def _check_md5(upload: OpenUpload, part: Part) -> None:
    try:
        md5_of_etag(part.etag)
    except ValueError as error:
        raise InvalidRequest(
            f"The etag of part {part.number} of {upload.content.key!r} is not an MD5 in hex: {part.etag!r}.",
            hint="It is the MD5 of the bytes that were sent, 32 hex digits.",
            details={"upload": upload.id, "numbers": [part.number]},
        ) from error


def _join(store: ObjectStore, bucket: str, upload: OpenUpload, parts: Sequence[Part]) -> ObjectInfo:
    """The object that the upload became, joined from its parts where it has some."""
    if upload.s3_upload_id is not None:
        try:
            there = store.list_parts(bucket, upload.content.key, upload.s3_upload_id)
            _check_arrived(upload, parts, there)
            joined = store.complete_multipart(bucket, upload.content.key, upload.s3_upload_id, parts)
            if joined.metadata.get(UPLOAD_MARK) == upload.id:  # and not an equal one that another upload brought
                return joined
        except NotFound:
            pass  # completed before, by a call whose answer was lost; or S3 has forgotten it
    info = _find_object(store, bucket, upload)
    if info is None:
        raise Conflict(
            f"S3 does not have what was to be uploaded as {upload.content.key!r}.",
            hint="Upload the file again; what has arrived already is not sent twice.",
            details={"upload": upload.id, "missing": [part.number for part in parts]},
        )
    return info


def _check_arrived(upload: OpenUpload, stated: Sequence[Part], there: Sequence[Part]) -> None:
    arrived = {part.number: (part.etag, part.size) for part in there}
    missing = [part.number for part in stated if arrived.get(part.number) != (part.etag, part.size)]
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (" …" if len(missing) > 10 else "")
        raise Conflict(
            f"Of {upload.content.key!r}, {len(missing)} of {len(stated)} part(s) are missing or differ: {shown}.",
            hint="Upload the file again; what has arrived already is not sent twice.",
            details={"upload": upload.id, "missing": missing},
        )


def _etag_of(upload: OpenUpload, parts: Sequence[Part]) -> str:
    """The ETag that S3 gives an object: its MD5; of a multipart upload the MD5 of the parts' MD5s and their number."""
    if upload.s3_upload_id is None:
        return parts[0].etag
    return etag_of_parts([md5_of_etag(part.etag) for part in parts])


def _find_object(store: ObjectStore, bucket: str, upload: OpenUpload) -> ObjectInfo | None:
    """The object version that carries this upload's mark, wherever it is among the versions of its key."""
    key = upload.content.key
    try:
        newest = store.head(bucket, key)
        if newest.metadata.get(UPLOAD_MARK) == upload.id:
            return newest
    except NotFound:
        pass
    for entry in store.list_versions(bucket, key):
        if entry.key == key and not entry.deleted and entry.size == upload.content.size:
            info = store.head(bucket, key, entry.version_id)
            if info.metadata.get(UPLOAD_MARK) == upload.id:
                return info
    return None


def _remove_version(database: Database, store: ObjectStore, project: ProjectRow, info: ObjectInfo) -> None:
    """Remove an object of an upload that is given up. A refresh may have made it a file long ago; where a snapshot
    names it, it stays, and a Conflict says so."""
    with database.read() as session:
        snapshots.refuse_if_named(session, project, info.key, info.version_id)
    with suppress(NotFound):  # another call was faster
        store.delete_version(project.bucket, info.key, info.version_id)


def _latest_version(store: ObjectStore, bucket: str, key: str) -> str | None:
    try:
        return store.head(bucket, key).version_id
    except NotFound:
        return None


def _refuse_object(
    database: Database, store: ObjectStore, project: ProjectRow, upload: OpenUpload, info: ObjectInfo
) -> StoredFile:
    """End an upload that brought other bytes than stated: first the row, so that nobody records what is removed."""
    with database.write() as session:
        row = rows.find_upload(session, project.id, upload.id, lock=True)
        done = _done(session, row) if row else None
        if done is not None:
            return done
        if row is not None:
            session.delete(row)
    _remove_version(database, store, project, info)
    raise Conflict(
        f"What arrived in S3 as {info.key!r} is not what was sent: {info.size:,} bytes, ETag {info.etag}.",
        hint="It was removed. Upload the file again.",
        details={"key": info.key, "size": info.size, "etag": info.etag},
    )


# --- abort ---------------------------------------------------------------------------------------------------------


def abort_upload(database: Database, store: ObjectStore, project: ProjectRow, upload_id: str) -> None:
    """Forget the upload and what has arrived of it.

    Raises:
        NotFound: no such upload.
        Conflict: it is completed, or a snapshot names what has arrived.
        StoreUnavailable: S3 does not answer; repeat the call.
    """
    with database.read() as session:
        upload = _get_upload(session, project, upload_id)
    if upload.done is None and upload.s3_upload_id is not None:
        store.abort_multipart(project.bucket, upload.content.key, upload.s3_upload_id)
    if upload.done is not None or not _forget_row(database, project, upload):
        raise Conflict(
            f"The upload of {upload.content.key!r} is completed.",
            hint=f"`divbase files rm '{upload.content.key}'` deletes the file.",
            details={"upload": upload_id, "key": upload.content.key},
        )
    info = _find_object(store, project.bucket, upload)
    if info is not None:
        _remove_version(database, store, project, info)


def _forget_row(database: Database, project: ProjectRow, upload: OpenUpload) -> bool:
    """Whether the upload is gone now. False: it was completed meanwhile."""
    with database.write() as session:
        row = rows.find_upload(session, project.id, upload.id, lock=True)
        if row is not None and row.completed_at is None:
            session.delete(row)
        return row is None or row.completed_at is None


def give_up(database: Database, store: ObjectStore, now: datetime, limit: int) -> int:
    """End uploads that have been open for longer than `UPLOAD_LIFETIME`, at most so many; how many it were.

    Parts that have arrived are forgotten at S3. A file that has arrived whole stays in the bucket: the next refresh of
    the project takes it into the catalogue.

    Raises:
        StoreUnavailable: some bucket refused, and its uploads wait for another call.
    """
    turn, given_up = Round(), 0
    for without in turn.passes():
        with database.read() as session:
            found = rows.opened_before(session, now - UPLOAD_LIFETIME, limit, without)
        for bucket, row in found:
            if not turn.skips(bucket):
                with turn.at(bucket):
                    _give_up(database, store, bucket, row)
                    given_up += 1
    turn.end()
    return given_up


def _give_up(database: Database, store: ObjectStore, bucket: str, row: UploadRow) -> None:
    if row.s3_upload_id is not None:
        with suppress(NotFound):  # its parts went with the bucket
            store.abort_multipart(bucket, row.key, row.s3_upload_id)
    with database.write() as session:
        current = rows.find_upload(session, row.project_id, row.public_id, lock=True)
        if current is not None and current.completed_at is None:
            session.delete(current)
    log.info("upload.given_up", upload=row.public_id, key=row.key, begun=row.created_at.isoformat())


# --- rows ----------------------------------------------------------------------------------------------------------


def _get_upload(session: Session, project: ProjectRow, upload_id: str) -> OpenUpload:
    row = rows.find_upload(session, project.id, upload_id)
    if row is None:
        raise NotFound(
            f"Project {project.name} has no upload {upload_id!r}; it may have been aborted.",
            hint="Begin it again with `divbase files upload`.",
            details={"upload": upload_id, "project": project.name},
        )
    return _open_upload(session, row)


def _open_upload(session: Session, row: UploadRow) -> OpenUpload:
    content = NewContent(row.key, row.size, row.sha256)
    return OpenUpload(row.public_id, content, row.part_size, row.s3_upload_id, _done(session, row))


def _done(session: Session, row: UploadRow) -> StoredFile | None:
    version = session.get(FileVersionRow, row.version_row_id) if row.version_row_id else None
    if version is None:
        return None
    file = file_rows.find_file(session, row.project_id, row.key)
    known = file_rows.find_version(session, version.file_id, version.version_id)
    return versions.stored_file(file, known) if file and known else None
