"""A database as it is after years: a project of 100 files and many thousands of ended jobs, written through the models.

The plans are the planner's own, so that they are as long as real ones.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from divbase_client.models import Query
from divbase_gateway.db.models import AttemptRow, FileRow, FileVersionRow, JobRow, ProjectRow, UserRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.files import CataloguedFile, Contig, FileFormat, FileState, IndexKind, IndexRef
from divbase_gateway.domain.planning import make_plan, plan_to_dict
from divbase_gateway.domain.queries import QueryRequest, Selection
from divbase_gateway.ports import ObjectStore
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

FILES = 100
SAMPLES_A_FILE = 10
_CONTIGS = tuple(Contig(f"chr{number}", 40_000_000, 20_000) for number in range(1, 25))
_BATCH = 2_000
_EPOCH = datetime(2024, 1, 1, tzinfo=UTC)


def sample_names(file: int) -> list[str]:
    return [f"site{file:03}_{number:02}" for number in range(SAMPLES_A_FILE)]


def metadata_table() -> str:
    """A row for each sample of the project, as a sample_metadata.tsv."""
    rows = ["#Sample_ID\tArea\tYear"]
    for file in range(FILES):
        rows += [f"{name}\t{('North', 'South')[file % 2]}\t{2000 + file % 20}" for name in sample_names(file)]
    return "\n".join(rows) + "\n"


def write_history(database: Database, project: str, jobs: int) -> list[str]:
    """Give the project its files and `jobs` ended jobs; their public ids."""
    with database.read() as session:
        project_id = session.scalars(select(ProjectRow.id).where(ProjectRow.name == project)).one()
        user_id = session.scalars(select(UserRow.id).order_by(UserRow.id)).first()
    assert user_id is not None
    with database.write() as session:
        _write_files(session, project_id, user_id)
    plans = _plans()
    ids: list[str] = []
    for start in range(0, jobs, _BATCH):
        with database.write() as session:
            ids += _write_jobs(session, range(start, min(start + _BATCH, jobs)), project_id, user_id, plans)
    return ids


def write_answer(database: Database, store: ObjectStore, project: str, question: Query, digest: str) -> None:
    """Give the project a job that has answered this question with a plan of this digest, its files in the store."""
    with database.read() as session:
        row = session.scalars(select(ProjectRow).where(ProjectRow.name == project)).one()
        user_id = session.scalars(select(UserRow.id).order_by(UserRow.id)).first()
    assert user_id is not None
    job = _job(0, row.id, user_id, question.model_dump(mode="json"), _plans()[0][1], digest)
    job |= {"public_id": "answer", "state": "SUCCEEDED", "reason": None, "message": None}
    job["results"] = []
    for output in _outputs("answer"):
        content = output["sha256"].encode()
        stored = store.write(row.bucket, output["key"], content)
        known = {"version_id": stored.version_id, "etag": stored.etag, "size": stored.size}
        job["results"].append({"role": output["role"], "key": output["key"], "sha256": output["sha256"], **known})
    with database.write() as session:
        session.execute(insert(JobRow), [job])


def _write_files(session: Session, project_id: int, user_id: int) -> None:
    for number, file in enumerate(_catalogue()):
        row = FileRow(project_id=project_id, key=file.key)
        session.add(row)
        session.flush()
        assert file.index is not None
        version = FileVersionRow(
            file_id=row.id,
            version_id=file.version_id,
            size=file.size,
            etag=file.etag,
            sha256=file.sha256,
            format=file.format,
            state=file.state,
            samples=sample_names(number),
            contigs=[[each.name, each.length, each.variants] for each in file.contigs],
            index_key=file.index.key,
            index_version_id=file.index.version_id,
            index_kind=file.index.kind,
            index_size=file.index.size,
            index_etag=file.index.etag,
            uploaded_at=_EPOCH,
            uploaded_by_id=user_id,
        )
        session.add(version)
        session.flush()
        row.current_id = version.id


def _catalogue() -> list[CataloguedFile]:
    return [_file(number) for number in range(FILES)]


def _file(number: int) -> CataloguedFile:
    key = f"sites/site{number:03}.vcf.gz"
    version, index_version = hashlib.md5(key.encode()).hexdigest(), hashlib.md5(f"{key}.csi".encode()).hexdigest()  # noqa: S324 - a version id
    return CataloguedFile(
        key=key,
        version_id=version,
        size=250_000_000,
        etag=version,
        sha256=hashlib.sha256(key.encode()).hexdigest(),
        format=FileFormat.VCF_GZ,
        state=FileState.READY,
        reason=None,
        samples=tuple(sample_names(number)),
        contigs=_CONTIGS,
        index=IndexRef(f"{key}.csi", index_version, IndexKind.CSI, 200_000, index_version),
    )


def _plans() -> list[tuple[dict[str, Any], dict[str, Any], str]]:
    """(question, plan, digest) of queries over four to eight files each."""
    made = []
    for first in range(20):
        names = tuple(f"sites/site{first + number:03}.vcf.gz" for number in range(4 + first % 5))
        command = 'view -r chr21:15000000-25000000; view -i "QUAL>=30"'
        request = QueryRequest(Selection(all_samples=True), command=command, files=names)
        plan = make_plan(request, _catalogue(), None)
        question = {"all_samples": True, "command": command, "files": list(names)}
        made.append((question, plan_to_dict(plan), plan.digest))
    return made


def _write_jobs(
    session: Session,
    numbers: Sequence[int],
    project_id: int,
    user_id: int,
    plans: list[tuple[dict[str, Any], dict[str, Any], str]],
) -> list[str]:
    jobs = [_job(number, project_id, user_id, *plans[number % len(plans)]) for number in numbers]
    session.execute(insert(JobRow), jobs)
    public_ids = [job["public_id"] for job in jobs]
    found = session.execute(select(JobRow.public_id, JobRow.id).where(JobRow.public_id.in_(public_ids)))
    ids = dict(found.tuples().all())
    session.execute(insert(AttemptRow), [_attempt(ids[job["public_id"]], job) for job in jobs])
    return public_ids


def _job(
    number: int, project_id: int, user_id: int, question: dict[str, Any], plan: dict[str, Any], digest: str
) -> dict[str, Any]:
    public_id = f"h{number:011}"
    at = _EPOCH + timedelta(minutes=5 * number)
    succeeded = number % 20 != 0
    return {
        "public_id": public_id,
        "project_id": project_id,
        "user_id": user_id,
        "kind": "query",
        "name": "result.vcf.gz",
        "query": question,
        "plan": plan,
        "plan_digest": digest,
        "state": "SUCCEEDED" if succeeded else "FAILED",
        "reason": None if succeeded else "bcftools_failed",
        "message": None if succeeded else "bcftools view ended with status 255: it said so",
        "attempt": 1,
        "created_at": at,
        "state_since": at + timedelta(seconds=40),
        "started_at": at + timedelta(seconds=2),
        "ended_at": at + timedelta(seconds=40),
        "observed_at": at + timedelta(seconds=40),
        "results": [
            {name: output[name] for name in ("role", "key", "version_id", "size", "sha256")}
            for output in _outputs(public_id)
        ],
    }


def _attempt(job_id: int, job: dict[str, Any]) -> dict[str, Any]:
    public_id, at = job["public_id"], job["created_at"]
    log = "".join(f"f{number}: a line of bcftools' own words about the inputs\n" for number in range(30))
    return {
        "job_id": job_id,
        "number": 1,
        "slurm_name": f"divbase-history-{public_id}",
        "token_sha256": hashlib.sha256(public_id.encode()).hexdigest(),
        "created_at": at,
        "cluster": "local",
        "slurm_job_id": str(job_id),
        "submitted_at": at + timedelta(seconds=1),
        "slurm_state": "COMPLETED",
        "exit_code": 0,
        "node": "node-17",
        "started_at": at + timedelta(seconds=2),
        "ended_at": at + timedelta(seconds=39),
        "elapsed_s": 37.0,
        "cpu_s": 61.5,
        "max_rss_bytes": 300_000_000,
        "claimed_at": at + timedelta(seconds=3),
        "reported_at": at + timedelta(seconds=38),
        "report": {"status": "succeeded", "outputs": _outputs(public_id), "counts": {"records": 812}, "log_tail": log},
        "log_tail": log,
        "uploads": _outputs(public_id),
        "outcome": "succeeded" if job["state"] == "SUCCEEDED" else job["reason"],
        "discarded_at": at + timedelta(seconds=41),
    }


def _outputs(public_id: str) -> list[dict[str, Any]]:
    chance = random.Random(public_id)
    return [
        {
            "role": role,
            "name": name,
            "key": f"results/{public_id}/{name}",
            "version_id": f"{chance.getrandbits(128):032x}",
            "etag": f"{chance.getrandbits(128):032x}",
            "size": chance.randrange(1_000, 10_000_000),
            "sha256": f"{chance.getrandbits(256):064x}",
        }
        for role, name in (
            ("result", "result.vcf.gz"),
            ("index", "result.vcf.gz.csi"),
            ("provenance", "provenance.json"),
            ("log", "job.log"),
        )
    ]
