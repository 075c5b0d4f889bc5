"""Faults between the gateway and SLURM while a job is handed over. Each test ends in the same check: every accepted job
has exactly one run that counted, none is wrong, none is lost. The numbers are those of the design's list of faults."""

from __future__ import annotations

import threading
import uuid

import httpx
import pytest
from divbase_client.models import JobState

from tests.cluster.containers import Cluster
from tests.cluster.site import COMMAND, Site, wait_for
from tests.cluster.truth import check, runs_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def names_of(site: Site, job: str) -> list[str]:
    """The name of every run that SLURM has of this job."""
    return [run.name for run in runs_of(site) if f"-{job}-" in run.name]


def test_fault_01_slurmctld_stops_between_accept_and_answer(site: Site, cluster: Cluster) -> None:
    """slurmctld is frozen while sbatch asks: sbatch gives up, slurmctld takes the job when it goes on. The job is found
    by its name, and is not submitted again."""
    cluster.admin("slurmctld", "pkill", "-STOP", "-x", "slurmctld")
    try:
        job = site.submit()
        site.reaches(job, JobState.SUBMIT_UNKNOWN)
    finally:
        cluster.admin("slurmctld", "pkill", "-CONT", "-x", "slurmctld")
    assert len(site.succeeds(job).attempts) == 1
    check(site)
    assert len(names_of(site, job)) == 1


def test_fault_02_gateway_is_killed_between_sbatch_and_commit(site: Site) -> None:
    """SLURM has the job, the gateway dies before it can write the id down: the next one adopts the job."""
    site.levers.hold_answer_of_sbatch()
    job = site.submit()
    site.levers.wait_accepted()
    site.gateway.kill()
    site.levers.release_command("sbatch")
    site.gateway.start()
    assert len(site.succeeds(job).attempts) == 1
    check(site)
    assert len(names_of(site, job)) == 1


def test_fault_03_two_equal_posts_with_one_key_at_once(site: Site) -> None:
    """The same request twice at the same moment is one job."""
    body = {"all_samples": True, "command": COMMAND, "fresh": True}
    headers = {"Authorization": f"Bearer {site.key}", "Idempotency-Key": str(uuid.uuid4())}
    url = f"{site.url}/api/v1/projects/{site.project}/jobs"
    barrier, answers = threading.Barrier(2), []

    def post() -> None:
        barrier.wait()
        answers.append(httpx.post(url, json=body, headers=headers, timeout=30.0, trust_env=False))

    threads = [threading.Thread(target=post) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    accepted = [answer for answer in answers if answer.is_success]
    assert {answer.status_code for answer in answers} <= {201, 409}, [answer.text for answer in answers]
    again = httpx.post(url, json=body, headers=headers, timeout=30.0, trust_env=False)
    assert {answer.json()["id"] for answer in [*accepted, again]} == {again.json()["id"]}
    site.succeeds(again.json()["id"])
    check(site)
    assert len(names_of(site, again.json()["id"])) == 1


def test_fault_13_login_node_is_talkative(site: Site, cluster: Cluster) -> None:
    """Login files that print, and commands that complain on stderr and end with 0, change nothing."""
    noise = 'echo "Welcome to the cluster: 4711"; echo "quota: 90 % used" >&2'
    cluster.admin("login", "bash", "-c", f"echo {noise!r} > ~/.bashrc", user="divbase")
    for name in ("sbatch", "squeue", "sacct"):
        site.levers.before_command(name, 'echo "error: plugin_load_from_file: a plugin is old" >&2')
    try:
        job = site.submit()
        assert len(site.succeeds(job).attempts) == 1
    finally:
        cluster.admin("login", "bash", "-c", "rm ~/.bashrc", user="divbase")
    check(site)


def test_fault_13_sbatch_reports_an_error_for_a_job_that_was_accepted(site: Site) -> None:
    """sbatch says that it failed and ends with 1, although the job is there: it is looked for, found, and run once."""
    lie = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    site.levers.before_command("sbatch", f'/usr/bin/sbatch "$@" >/dev/null; echo "{lie}" >&2; exit 1')
    job = site.submit()
    wait_for(lambda: names_of(site, job), "the job in SLURM")
    assert len(site.succeeds(job).attempts) == 1
    check(site)
    assert len(names_of(site, job)) == 1


def test_fault_19_cancel_while_submitting(site: Site) -> None:
    """A wish to cancel that comes while sbatch is being asked is carried out once the answer is there."""
    site.levers.hold("claim")
    site.levers.hold_answer_of_sbatch()
    job = site.submit()
    site.levers.wait_accepted()
    assert site.job(job).state is JobState.SUBMITTING
    site.user.jobs.cancel(site.project, job)
    site.levers.release_command("sbatch")
    assert site.reaches(job, JobState.CANCELLED).message == "The job was cancelled at the user's request (uid 2000)."
    check(site)
