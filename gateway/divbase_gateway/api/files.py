"""Routes about files. They know the wire models; what a file is and what may be done with it is for the services."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from divbase_client import models
from fastapi import Query, Response

from divbase_gateway.api.auth import Editor, Reader
from divbase_gateway.api.deps import ReadSession, TheGateway
from divbase_gateway.api.idempotency import Once, earlier_answer, idempotently
from divbase_gateway.api.jobs import detail_of as job_detail_of
from divbase_gateway.api.pagination import Paging
from divbase_gateway.api.presigned import presigned_of
from divbase_gateway.api.routes import new_router
from divbase_gateway.domain.files import FileState
from divbase_gateway.services import drain, files, repairs, retention, sidecars
from divbase_gateway.services.files import FileDownload, Listing
from divbase_gateway.services.sidecars import SidecarView
from divbase_gateway.services.versions import StoredFile

router = new_router("files")

Key = Annotated[str, Query(description="Name of the file in the project", min_length=1, max_length=1100)]
Version = Annotated[str | None, Query(description="One version of it; the current one where none is named")]


@router.get("/projects/{project}/files")
def list_files(
    caller: Reader,
    session: ReadSession,
    paging: Paging,
    prefix: Annotated[str, Query(description="Only names that begin like this")] = "",
    versions: Annotated[bool, Query(description="Every version, newest first")] = False,
    deleted: Annotated[bool, Query(description="Deleted files too")] = False,
) -> models.Page[models.File]:
    """The project's files by name."""
    listing = Listing(prefix, versions, deleted)
    found = files.list_files(session, caller.project, listing, paging.after, paging.fetch)
    return paging.page(found, file_of, listing.position)


@router.get("/projects/{project}/files/info")
def file_info(key: Key, caller: Reader, session: ReadSession, version: Version = None) -> models.FileDetail:
    """One file with its samples and contigs."""
    file = files.get_file(session, caller.project, key, version)
    return detail_of(file, sidecars.look_at(session, file.row_id))


@router.get("/projects/{project}/files/download")
def download_file(key: Key, caller: Reader, gateway: TheGateway, version: Version = None) -> models.Download:
    """Where to download one version of a file, or a job's result (`results/…`), whose time begins anew with that."""
    expires = timedelta(seconds=gateway.settings.jobs.url_expiry_s)
    with gateway.sessions.read() as session:
        download = files.get_download(session, gateway.store, caller.project, key, version, expires)
    if download.result_of is not None:
        retention.note_use(gateway.sessions, download.result_of, gateway.clock.now())
    return download_of(download)


@router.delete("/projects/{project}/files")
def delete_file(key: Key, caller: Editor, gateway: TheGateway) -> models.File:
    """Delete a file. Its versions are kept, and `restore` brings it back."""
    return file_of(files.delete_file(gateway.sessions, gateway.store, gateway.clock, caller.project, key))


@router.post("/projects/{project}/files/restore", response_model=models.File)
def restore_file(body: models.RestoreFile, caller: Editor, gateway: TheGateway, once: Once) -> Response:
    """Bring a deleted file back as it was. Nothing is copied, whatever its size."""
    with gateway.sessions.read() as session:
        earlier = earlier_answer(once, session, caller, body)
    if earlier is not None:
        return earlier
    files.uncover_file(gateway.sessions, gateway.store, caller.project, body.key)
    with gateway.sessions.write() as session:
        return idempotently(
            once, session, caller, body, lambda: file_of(files.record_restore(session, caller.project, body.key)), 200
        )


_THERE: dict[int | str, dict[str, Any]] = {
    200: {"model": models.JobDetail, "description": "A job is at work on this version already"}
}


@router.post("/projects/{project}/files/repair", status_code=201, response_model=models.JobDetail, responses=_THERE)
def repair_file(body: models.RepairFile, caller: Editor, gateway: TheGateway, once: Once) -> Response:
    """Mend a file that is UNUSABLE with a job: what is not BGZF becomes BGZF, what is unsorted sorted, and all indexed.

    The job writes a new version, and only if the file is still the one that it read. What no job can mend is refused.
    """
    with gateway.sessions.read() as session:
        earlier = earlier_answer(once, session, caller, body)
    if earlier is not None:
        return earlier
    examined = repairs.examine(gateway.sessions, gateway.store, caller.project, body.key)
    with gateway.sessions.write() as session:
        project, user = session.merge(caller.project, load=False), session.merge(caller.user, load=False)

        def create() -> models.JobDetail:
            accepted = repairs.accept(session, project, user, examined, gateway.policy, once.now)
            held_back = drain.holding(session, [accepted.job])
            return job_detail_of(accepted.job, held_back).model_copy(update={"reused": not accepted.is_new})

        answer = idempotently(once, session, caller, body, create, lambda detail: 200 if detail.reused else 201)
    gateway.wake()
    return answer


@router.post("/projects/{project}/files/refresh", response_model=models.Page[models.File])
def refresh_files(caller: Editor, gateway: TheGateway, once: Once) -> Response:
    """Catalogue objects that came into the bucket without DivBase, and note what was deleted there."""
    with gateway.sessions.read() as session:
        earlier = earlier_answer(once, session, caller, None)
    if earlier is not None:
        return earlier
    changed = files.refresh(gateway.sessions, gateway.store, gateway.clock, caller.project, caller.user)
    page = models.Page[models.File](items=[file_of(file) for file in changed])
    with gateway.sessions.write() as session:
        answer = idempotently(once, session, caller, None, lambda: page, 200)
    wake_for(gateway, *changed)
    return answer


def wake_for(gateway: TheGateway, *changed: StoredFile) -> None:
    """Let the reconciler submit index jobs now; call it after the commit."""
    if any(file.state is FileState.INDEXING for file in changed):
        gateway.wake()


def file_of(file: StoredFile) -> models.File:
    """The wire form of a file."""
    return models.File.model_validate(_fields(file))


def detail_of(file: StoredFile, sidecar: SidecarView | None) -> models.FileDetail:
    """The wire form with names of samples and contigs, and the BCF copy."""
    return models.FileDetail.model_validate(
        _fields(file)
        | {
            "sample_names": list(file.samples),
            "contig_list": [models.Contig.model_validate(contig) for contig in file.contigs],
            "index_key": file.index.key if file.index else None,
            "index_job": file.index_job,
            "sidecar": None if sidecar is None else models.Sidecar.model_validate(sidecar),
        }
    )


def download_of(download: FileDownload) -> models.Download:
    return models.Download(
        key=download.key,
        version_id=download.version_id,
        size=download.size,
        sha256=download.sha256,
        etag=download.etag,
        request=presigned_of(download.request),
    )


def _fields(file: StoredFile) -> dict[str, object]:
    """Counts are None for what is no variant file, or could not be read as one."""
    readable = bool(file.contigs or file.samples) or file.state in (FileState.READY, FileState.INDEXING)
    return {
        "key": file.key,
        "version_id": file.version_id,
        "size": file.size,
        "sha256": file.sha256,
        "etag": file.etag,
        "state": file.state.value,
        "reason": file.reason,
        "format": file.format.value,
        "samples": len(file.samples) if readable else None,
        "contigs": len(file.contigs) if readable else None,
        "variants": file.variants,
        "index": file.index.kind.value if file.index else None,
        "uploaded_at": file.uploaded_at,
        "uploaded_by": file.uploaded_by,
        "deleted": file.deleted,
        "is_latest": file.is_latest,
    }
