"""Whatever is killed, and whenever: every accepted job comes to its true end, none is lost, none counts twice."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from divbase_client import ClientError, Moved
from divbase_client.models import JobState

from demo.simulate import Survey
from tests.e2e.conftest import MakeStack
from tests.e2e.stack import Gate, Project, outcomes_of, result_of, wait_for

SEED = 20240611
KILLS = 10
COMMAND = "view -r chr21:1-20000000"
SIZE = 120 * 1024 * 1024  # three times what is on its way at once


@pytest.mark.slow
def test_the_gateway_is_killed_at_ten_moments_of_ten_jobs(make_stack: MakeStack, survey: Survey) -> None:
    """Guards: kill -9 at any moment of a job. After the restart each has succeeded, by one attempt that counts, with
    the bytes that a job in peace gives."""
    stack = make_stack()
    project = Project.create(stack, "puffins", [survey.files[0], survey.files[2]])
    begun = time.monotonic()
    expected = result_of(project.succeeds(project.submit(COMMAND)))
    lasts = time.monotonic() - begun
    chance = random.Random(SEED)
    moments = [chance.uniform(0, lasts) for _ in range(KILLS)]
    print(f"seed {SEED}: killed {', '.join(f'{moment:.2f}' for moment in moments)} s into jobs of {lasts:.2f} s")
    jobs = []
    for moment in moments:
        jobs.append(project.submit(COMMAND))
        time.sleep(moment)
        stack.kill()
        stack.start()
    ended = [project.succeeds(job) for job in jobs]
    assert [result_of(job) for job in ended] == [expected] * KILLS
    assert [outcomes_of(job).count("succeeded") for job in ended] == [1] * KILLS
    with stack.client() as client:
        assert {job.state for job in client.jobs.list("puffins")} == {JobState.SUCCEEDED}
        assert len(list(client.jobs.list("puffins", kind="query"))) == KILLS + 1


@pytest.mark.slow
def test_a_stop_ends_what_runs_and_the_next_start_goes_on(
    make_stack: MakeStack, survey: Survey, tmp_path: Path
) -> None:
    """Guards: Ctrl-C and SIGTERM with a running job leave no process behind, and the job's next attempt succeeds."""
    gate = Gate.build(tmp_path / "gate")
    stack = make_stack(environment=gate.environment)
    project = Project.create(stack, "puffins", survey.files[:1])
    for number in (signal.SIGINT, signal.SIGTERM):
        gate.close()
        job = project.submit(COMMAND)
        project.reaches(job, JobState.RUNNING)
        stack.stop(number)
        gate.open()
        stack.start()
        assert outcomes_of(project.succeeds(job)) == ["node_failed", "succeeded"]


@pytest.mark.slow
def test_s3_goes_away_in_a_job_and_comes_back(make_stack: MakeStack, survey: Survey, tmp_path: Path) -> None:
    """Guards: a job that cannot push its result waits for S3, and succeeds once it is back."""
    gate = Gate.build(tmp_path / "gate")
    stack = make_stack(environment=gate.environment)
    project = Project.create(stack, "puffins", survey.files[:1])
    gate.close()
    job = project.submit(COMMAND)
    wait_for(lambda: "staged:" in running_log(stack_folder(project), project.job(job).slurm_job_id), "a staged input")
    stack.kill_s3()
    gate.open()
    wait_for(lambda: "ran:" in running_log(stack_folder(project), project.job(job).slurm_job_id), "the result")
    assert project.job(job).state is JobState.RUNNING
    stack.restart_s3()
    assert outcomes_of(project.succeeds(job)) == ["succeeded"]


@pytest.mark.slow
def test_s3_goes_away_for_good_and_the_job_says_so(make_stack: MakeStack, survey: Survey, tmp_path: Path) -> None:
    """Guards: a job that S3 does not answer for too long fails with the reason, its log is there once S3 is back, and
    then it can be run again."""
    gate = Gate.build(tmp_path / "gate")
    stack = make_stack(settings={"JOBS__RETRY_FOR_S": "2", "JOBS__MAX_ATTEMPTS": "1"}, environment=gate.environment)
    project = Project.create(stack, "puffins", survey.files[:1])
    gate.close()
    job = project.submit(COMMAND)
    wait_for(lambda: "staged:" in running_log(stack_folder(project), project.job(job).slurm_job_id), "a staged input")
    stack.kill_s3()
    gate.open()
    failed = project.reaches(job, JobState.FAILED)
    assert failed.reason == "store_unavailable"
    assert (failed.message or "").startswith("S3 did not answer for result.vcf.gz")
    stack.restart_s3()
    text = wait_for(lambda: complete_log(project, job), "the stored log")
    assert "finished: store_unavailable" in text
    with stack.client() as client:
        client.jobs.rerun("puffins", job)
    assert outcomes_of(project.succeeds(job)) == ["store_unavailable", "succeeded"]


@pytest.mark.slow
def test_s3_goes_away_in_an_upload_and_the_next_run_sends_the_rest(make_stack: MakeStack, tmp_path: Path) -> None:
    """Guards: a clear error while S3 is away; afterwards only the parts that are missing are sent."""
    stack = make_stack(settings={"FILES__PART_SIZE_MIB": "5"})
    project = Project.create(stack, "puffins")
    path = tmp_path / "notes.txt"
    path.write_bytes(random.Random(SEED).randbytes(SIZE))
    killed: list[bool] = []

    def kill_when_half_is_sent(moved: Moved) -> None:
        if not killed and moved.stage == "sending" and moved.done > SIZE // 2:
            killed.append(True)
            stack.kill_s3()

    with stack.client(attempts=2) as client:
        with pytest.raises(ClientError) as caught:
            client.files.upload(project.name, path, progress=kill_when_half_is_sent)
    assert killed
    assert "S3" in str(caught.value)
    stack.restart_s3()
    with stack.client() as client:
        again = client.files.upload(project.name, path)
        assert 0 < again.sent < SIZE
        downloaded = client.files.download(project.name, "notes.txt", tmp_path / "back")
    assert downloaded.path.read_bytes() == path.read_bytes()


def stack_folder(project: Project) -> Path:
    return project.stack.data / "jobs"


def running_log(jobs: Path, scheduler_id: str | None) -> str:
    """What a job has said so far, read where its operator would."""
    log = jobs / str(scheduler_id) / "job.log"
    return log.read_text() if log.is_file() else ""


def complete_log(project: Project, job: str) -> str | None:
    with project.stack.client() as client:
        log = client.jobs.log(project.name, job)
    return log.text if log.complete else None
