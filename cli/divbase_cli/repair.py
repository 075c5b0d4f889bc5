"""`divbase files repair`: mends files that are UNUSABLE, each by a job. It stands apart from the other commands about
files because it follows jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from divbase_cli.command import command
from divbase_cli.failure import line_of
from divbase_cli.files import Keys, fail_if_any, say_failures
from divbase_cli.jobs import check_success, follow
from divbase_cli.session import Session

if TYPE_CHECKING:
    from divbase_client.models import File, JobDetail
    from divbase_client.transfers import Failed


@dataclass(frozen=True)
class Repaired:
    """A file's job, and what the file is after it, where somebody waited for that."""

    key: str
    job: JobDetail
    file: File | None = None


def register(app: typer.Typer) -> None:
    """Put the command among those about files."""
    command(
        app, "repair", example=["divbase files repair vcf/chr21.vcf.gz --wait", "divbase files repair a.vcf b.bcf"]
    )(repair)


def repair(
    session: Session,
    keys: Keys,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the jobs; the exit code tells.")] = False,
) -> None:
    """Mend files that are UNUSABLE. A job writes a new version of each; the old one stays among its versions.

    Plain gzip and files that are not compressed become BGZF, unsorted ones sorted, and all get an index. What no job
    can mend is refused with what to do instead (exit code 6): truncated files, duplicate samples, what is no VCF.
    """
    outcomes = [_ask(session, key) for key in dict.fromkeys(keys)]
    if wait:
        outcomes = [_wait(session, one) if isinstance(one, Repaired) else one for one in outcomes]
    say_failures(session, outcomes)
    _print(session, outcomes)
    fail_if_any(outcomes)


def _ask(session: Session, key: str) -> Repaired | Failed:
    from divbase_client.errors import ClientError
    from divbase_client.transfers import Failed

    try:
        job = session.client.files.repair(session.project, key)
    except ClientError as error:
        return Failed(key, error)
    if job.reused:
        session.output.note(f"job {job.id} is at work on {key} already")
    return Repaired(key, job)


def _wait(session: Session, one: Repaired) -> Repaired | Failed:
    """Follow the job to its end; then the file is looked at."""
    from divbase_client.errors import ClientError
    from divbase_client.transfers import Failed

    try:
        job = follow(session, one.job.id)
        check_success(job)
        return Repaired(one.key, job, session.client.files.wait_until_indexed(session.project, one.key))
    except ClientError as error:
        return Failed(one.key, error)


def _print(session: Session, outcomes: list[Repaired | Failed]) -> None:
    if session.output.as_json:
        session.output.json([_dumped(one) for one in outcomes])
        return
    session.output.table(
        ["KEY", "JOB", "JOB STATE", "FILE", "VARIANTS"],
        [
            (one.key, one.job.id, one.job.state, one.file and one.file.state, one.file and one.file.variants)
            if isinstance(one, Repaired)
            else (one.key, None, "failed", None, None)
            for one in outcomes
        ],
    )
    for one in outcomes:
        if isinstance(one, Repaired) and one.file is None:
            session.output.note(f"Follow it with: divbase jobs watch {one.job.id}")


def _dumped(one: Repaired | Failed) -> dict[str, Any]:
    if not isinstance(one, Repaired):
        return {"key": one.key, "error": line_of(one.error)}
    file = None if one.file is None else one.file.model_dump(mode="json")
    return {"key": one.key, "job": one.job.model_dump(mode="json"), "file": file}
