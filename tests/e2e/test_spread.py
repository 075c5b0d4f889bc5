"""Queries that are spread over several jobs of the embedded scheduler, whole: the same bytes as by one job, whatever
becomes of a shard on the way."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
from divbase_client.models import JobState
from divbase_gateway.s3.store import S3Store

from demo.simulate import Survey
from tests.e2e.conftest import MakeStack
from tests.e2e.stack import Gate, Project, Stack, outcomes_of, result_of, wait_for

pytestmark = pytest.mark.xdist_group("spread")  # for `alone`

COMMAND = "view -r chr21:5000000-25000000,chr22:15000000-45000000"
SPREAD = {"JOBS__SPREAD_AFTER_S": "2"}


def script_of(stack: Stack, slurm_job_id: str) -> psutil.Process | None:
    """The running batch script of a job, by its directory."""
    folders = list((stack.data / "jobs").glob(f"{slurm_job_id}*"))
    for process in stack.processes():
        if process.name() == "bash" and any(Path(process.cwd()).is_relative_to(folder) for folder in folders):
            return process
    return None


def made_by_shards(stack: Stack) -> list[str]:
    """What the store has of it, every version."""
    there = stack.s3.adopt()
    assert there is not None
    store = S3Store(there.endpoint_url, access_key=there.access_key, secret_key=there.secret_key)
    with stack.client() as client:
        bucket = client.projects.get("puffins").bucket
    return [each.key for each in store.list_versions(bucket, ".divbase/shards/")]


@pytest.fixture(scope="module")
def alone(survey: Survey, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The SHA-256 of the answer of one job."""
    stack = Stack(tmp_path_factory.mktemp("alone"))
    try:
        stack.start()
        project = Project.create(stack, "puffins", survey.files)
        job = project.succeeds(project.submit(COMMAND))
    finally:
        stack.clear()
    assert job.shards == []
    return result_of(job)


@pytest.mark.slow
@pytest.mark.parametrize("access", ["gateway", "manifest"])
def test_a_query_spread_over_jobs_gives_the_same_bytes(
    make_stack: MakeStack, survey: Survey, tmp_path: Path, alone: str, access: str
) -> None:
    """Guards: shards that are jobs of their own, on nodes of either kind, change no byte of the result; nothing of them
    is in a listing, and the provenance says how each was made."""
    stack = make_stack(settings={**SPREAD, "JOBS__NODE_ACCESS": access})
    project = Project.create(stack, "puffins", survey.files)
    joined = project.succeeds(project.submit(COMMAND))
    assert len(joined.shards) >= 2
    assert all(shard.state is JobState.SUCCEEDED for shard in joined.shards)
    assert result_of(joined) == alone
    assert outcomes_of(joined) == ["succeeded"]
    with stack.client() as client:
        assert not [file.key for file in client.files.list("puffins") if "shard" in file.key]
    wait_for(lambda: not made_by_shards(stack), "the end of what shards made")
    project.fetch(joined.id, tmp_path / "result")
    request = json.loads((tmp_path / "result" / "provenance.json").read_text())["request"]
    assert [each["number"] for each in request["gathers"]] == [shard.number for shard in joined.shards]
    assert all(each["tools"]["bcftools"] and each["commands"] for each in request["gathers"])


@pytest.mark.slow
def test_a_killed_shard_is_rerun_alone(make_stack: MakeStack, survey: Survey, tmp_path: Path, alone: str) -> None:
    """Guards: one shard's script is killed while it runs: the others go on, the query fails and names it, and a rerun
    runs that shard and the job that joins, nothing else; the bytes are those of one job."""
    gate = Gate.build(tmp_path / "gate")
    stack = make_stack("spread", settings=SPREAD, environment=gate.environment)
    project = Project.create(stack, "puffins", survey.files)
    gate.close()
    job = project.submit(COMMAND)
    wait_for(lambda: project.job(job).shards[0].state is JobState.RUNNING, "the first shard at work")
    running = project.job(job)
    assert running.state is JobState.SPREAD
    count = len(running.shards)
    assert (running.waiting or "").startswith(f"Shards: 0 of {count} done, ")
    wait_for(lambda: script_of(stack, str(running.shards[0].slurm_job_id)), "its script").kill()
    wait_for(lambda: project.job(job).shards[0].state is JobState.FAILED, "its end")
    gate.open()
    failed = project.reaches(job, JobState.FAILED)
    assert (failed.message or "").startswith(f"Shard 1 of {count} (chr21:")
    assert f"{count - 1} of {count} shards have succeeded" in (failed.message or "")
    assert outcomes_of(failed) == []
    with stack.client() as client:
        client.jobs.rerun("puffins", job)
    joined = project.succeeds(job)
    assert [shard.attempt for shard in joined.shards] == [2, *[1] * (count - 1)]
    assert result_of(joined) == alone
