"""Faults of what a job and the gateway need beside SLURM: S3, the database, the login node, the node's disk and time.
Each test ends in the same check. The numbers are those of the design's list of faults."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from divbase_client.models import JobState

from tests.cluster.conftest import EXPIRY_S, MakeSite
from tests.cluster.containers import Cluster
from tests.cluster.site import Site, wait_for
from tests.cluster.truth import check, runs_of
from tests.postgres import start_postgres, without_postgres

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

_HOST_KEY = "/keys/ssh_host_ed25519_key"


@pytest.fixture(scope="module")
def postgres_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("postgres")


@pytest.fixture(scope="module")
def two_gateways(postgres_folder: Path, make_site: MakeSite) -> Site:
    """Two gateways on one PostgreSQL database, behind one address. The server ends with the tests."""
    postgres = start_postgres(postgres_folder)
    postgres.execute("CREATE DATABASE site")
    return make_site(database=postgres.url("site"), replicas=2)


def test_fault_11_and_15_a_minute_in_one_go(site: Site, s3_only: Site, cluster: Cluster) -> None:
    """Three jobs that take a minute, side by side. One runs into its time limit and says so, its log being there; of
    the others all URLs have expired when they come to use them. The one that has a way to the gateway asks for new
    ones, and succeeds; the other, in manifest mode, has not begun yet: it says so by its exit status, and its next
    attempt has URLs of its own."""
    site.levers.hold("run")
    over = site.submit()
    site.levers.wait_held("run")
    site.levers.hold("stage")
    site.levers.release("push")
    late = site.submit()
    site.levers.wait_held("stage")
    s3_only.levers.hold("claim")
    expired = s3_only.submit()
    s3_only.levers.wait_held("claim")
    begin = time.monotonic()
    cluster.admin("slurmctld", "scontrol", "update", f"jobid={site.slurm_id(over)}", "timelimit=1")
    ended = site.reaches(over, JobState.FAILED, patience_s=150)
    assert ended.reason == "timed_out"
    assert "finished: timed_out" in site.user.jobs.log(site.project, over).text
    time.sleep(max(0.0, EXPIRY_S + 2 - (time.monotonic() - begin)))
    for each, step in ((site, "run"), (site, "stage"), (s3_only, "claim")):
        each.levers.release(step)
    assert len(site.succeeds(late).attempts) == 1
    assert [each.outcome for each in s3_only.succeeds(expired).attempts] == ["urls_expired", "succeeded"]
    check(site)
    check(s3_only)


def test_fault_11_job_that_hangs_before_it_can_report(site: Site, cluster: Cluster) -> None:
    """SLURM's signal that the time is nearly over ends a script that has not come to its traps yet: it timed out."""
    site.levers.before_all("while true; do sleep 1; done")
    job = site.submit()
    number = site.slurm_id(job)
    site.reaches(job, JobState.RUNNING)
    cluster.admin("slurmctld", "scontrol", "update", f"jobid={number}", "timelimit=1")
    ended = site.reaches(job, JobState.FAILED, patience_s=150)
    assert ended.reason == "timed_out", ended.message
    check(site)


def test_fault_14_host_key_has_changed(site: Site, cluster: Cluster) -> None:
    """A login node with another host key is refused, and the words say who must look; once the key is right again, the
    job that was accepted meanwhile runs."""
    other = f"mkdir /keys/kept; mv {_HOST_KEY}* /keys/kept; ssh-keygen -q -t ed25519 -N '' -f {_HOST_KEY}"
    with cluster.without("login", "sshd"):
        cluster.admin("login", "bash", "-c", f"{other}; pkill sshd; true")
    try:
        job = site.submit()
        words = wait_for(lambda: _words(site, "host key"), "the refusal of the host key")
        assert "The host key of 127.0.0.1 has changed, so DivBase did not log in." in words
        assert site.job(job).state in (JobState.ACCEPTED, JobState.SUBMITTING)
    finally:
        cluster.admin("login", "bash", "-c", "mv -f /keys/kept/* /keys; rmdir /keys/kept; pkill sshd; true")
        cluster.wait_healthy("login")
    assert len(site.succeeds(job).attempts) == 1
    check(site)


def test_fault_16_s3_is_away_at_push_back(site: Site) -> None:
    """A job that cannot push its result waits for S3, and succeeds when it is back; so does its verification."""
    site.levers.hold("push")
    job = site.submit()
    site.levers.wait_held("push")
    with site.without_s3():
        site.levers.release("push")
        time.sleep(3)
        assert site.job(job).state is JobState.RUNNING
    assert len(site.succeeds(job).attempts) == 1
    check(site)


def test_fault_16_s3_is_away_for_too_long(site: Site) -> None:
    """A job that S3 does not answer for too long fails with the reason, and is attempted again."""
    site.levers.hold("push")
    job = site.submit()
    site.levers.wait_held("push")
    with site.without_s3():
        site.levers.release("push")
        wait_for(lambda: len(site.job(job).attempts) > 1, "another attempt")
    assert site.succeeds(job).attempts[0].outcome == "store_unavailable"
    check(site)


def test_fault_17_database_is_away(two_gateways: Site, postgres_folder: Path) -> None:
    """While a job runs the database goes away: looks are answered 503, the job waits with its report, and succeeds."""
    site = two_gateways
    site.levers.hold("push")
    job = site.submit()
    site.levers.wait_held("push")
    with without_postgres(postgres_folder):
        site.levers.release("push")
        wait_for(lambda: "does not answer" in site.checks()["database"], "the readiness that says so")
        time.sleep(2)
    assert len(site.succeeds(job).attempts) == 1
    check(site)


def test_fault_18_disk_of_the_node_is_full(site: Site, cluster: Cluster) -> None:
    """A scratch folder without room ends the job with the reason, after as many attempts as the site allows."""
    site.levers.before_all("export TMPDIR=/dev/shm")
    for node in ("c1", "c2"):
        fill = "rm -f /dev/shm/full; head -c $(($(stat -f -c %a*%S /dev/shm) - 49152)) /dev/zero > /dev/shm/full"
        cluster.admin(node, "bash", "-c", fill)
    try:
        job = site.submit()
        ended = site.reaches(job, JobState.FAILED)
    finally:
        for node in ("c1", "c2"):
            cluster.admin(node, "rm", "-f", "/dev/shm/full")
    assert (ended.reason, {attempt.outcome for attempt in ended.attempts}) == ("disk_full", {"disk_full"})
    for node in ("c1", "c2"):
        assert "divbase" not in cluster.admin(node, "ls", "/dev/shm")
    check(site)


def test_fault_20_two_gateways(two_gateways: Site) -> None:
    """Of two gateways one leads, and when it is killed the other goes on where it was: each job is submitted once."""
    site = two_gateways
    site.levers.reset()
    first = [site.submit() for _ in range(3)]
    for job in first:
        site.succeeds(job)
    leader = max(site.gateways, key=lambda gateway: gateway.log.read_text().rfind("job.submitted"))
    leader.end(signal.SIGKILL)
    second = [site.submit() for _ in range(3)]
    leader.start()
    for job in [*first, *second]:
        assert len(site.succeeds(job).attempts) == 1
    check(site)
    assert len({run.name for run in runs_of(site)}) == len(list(site.user.jobs.list(site.project)))


def _words(site: Site, part: str) -> str | None:
    words = site.checks()["scheduler"]
    return words if part in words else None
