"""Routes of uploads. The bytes go from the client to S3; what comes through here are announcements and checksums."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from divbase_client import models
from fastapi import Response
from sqlalchemy.orm import Session

from divbase_gateway.api.auth import Editor
from divbase_gateway.api.deps import Gateway, ReadSession, TheGateway
from divbase_gateway.api.files import file_of, wake_for
from divbase_gateway.api.idempotency import Once, earlier_answer, idempotently
from divbase_gateway.api.presigned import presigned_of
from divbase_gateway.api.routes import new_router
from divbase_gateway.domain.errors import StorageFull
from divbase_gateway.ports import Part
from divbase_gateway.services import uploads
from divbase_gateway.services.uploads import BegunUpload, NewContent, UploadLimits

router = new_router("uploads")

_MIB = 1024 * 1024


@router.post("/projects/{project}/uploads", status_code=201, response_model=models.Upload)
def begin_upload(body: models.NewUpload, caller: Editor, gateway: TheGateway, once: Once) -> Response:
    """Begin an upload, or go on with the open one of the same content. 200 where the file has this content already."""
    with gateway.sessions.read() as session:
        earlier = earlier_answer(once, session, caller, body)
    if earlier is not None:
        return earlier
    content = NewContent(body.key, body.size, body.sha256)
    prepared = uploads.prepare_upload(
        gateway.sessions,
        gateway.store,
        gateway.clock,
        limits_of(gateway),
        caller.project,
        caller.user,
        content,
        gateway.policy,
    )

    def record(session: Session) -> models.Upload:
        begun = uploads.record_upload(session, prepared, caller.project, caller.user, gateway.policy, once.now)
        return upload_of(begun)

    try:
        with gateway.sessions.write() as session:
            return idempotently(
                once,
                session,
                caller,
                body,
                lambda: record(session),
                lambda upload: 200 if upload.mode is models.UploadMode.UNCHANGED else 201,
            )
    except StorageFull:
        uploads.withdraw(gateway.store, caller.project, prepared)
        raise


@router.post("/projects/{project}/uploads/{upload}/urls")
def sign_parts(
    upload: str, body: models.UploadUrlsRequest, caller: Editor, session: ReadSession, gateway: TheGateway
) -> models.UploadUrls:
    """Requests that send parts to S3, each good for the bytes with its MD5 only."""
    md5s = [(part.number, part.md5) for part in body.parts]
    signed = uploads.sign_parts(session, gateway.store, limits_of(gateway), caller.project, upload, md5s)
    return models.UploadUrls(
        urls=[models.UploadUrl(number=number, request=presigned_of(request)) for number, request in signed]
    )


@router.post("/projects/{project}/uploads/{upload}/complete")
def complete_upload(upload: str, body: models.CompleteUpload, caller: Editor, gateway: TheGateway) -> models.File:
    """Verify what arrived and make it the file's current version. Safe to repeat."""
    parts = [Part(part.number, part.etag.lower(), part.size) for part in body.parts]
    file = uploads.complete_upload(
        gateway.sessions, gateway.store, gateway.clock, caller.project, caller.user, upload, parts
    )
    wake_for(gateway, file)
    return file_of(file)


@router.delete("/projects/{project}/uploads/{upload}", status_code=204)
def abort_upload(upload: str, caller: Editor, gateway: TheGateway) -> None:
    """Forget an upload and what arrived of it."""
    uploads.abort_upload(gateway.sessions, gateway.store, caller.project, upload)


def limits_of(gateway: Gateway) -> UploadLimits:
    """The site's choices as the service takes them."""
    settings = gateway.settings
    return UploadLimits(
        part_size=settings.files.part_size_mib * _MIB,
        max_size=settings.files.max_size_gib * 1024 * _MIB,
        allowed_suffixes=tuple(settings.files.allowed_suffixes),
        url_expiry=timedelta(seconds=settings.jobs.url_expiry_s),
    )


def upload_of(begun: BegunUpload) -> models.Upload:
    return models.Upload(
        id=begun.id,
        mode=models.UploadMode(begun.mode.value),
        part_size=begun.part_size,
        parts=_parts_of(begun.parts),
        file=file_of(begun.file) if begun.file else None,
    )


def _parts_of(parts: Sequence[Part]) -> list[models.UploadedPart]:
    return [models.UploadedPart(number=part.number, etag=part.etag, size=part.size) for part in parts]
