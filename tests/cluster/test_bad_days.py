"""Bad input and bad days at the cluster: for each a truthful state, and words that say who must do what. What sbatch is
told wrongly it is told by options before the script's own, so that the refusals are SLURM's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from divbase_client.models import JobDetail, JobState

from tests.cluster.containers import Cluster
from tests.cluster.disturb import frozen
from tests.cluster.site import Site, wait_for
from tests.cluster.truth import check

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

OPERATOR = "A site admin corrects account, partition, QOS or wckey of the project"


@pytest.fixture(autouse=True)
def truth(site: Site) -> Iterator[None]:
    """Every test ends in the check."""
    yield
    check(site)


@pytest.mark.parametrize(
    ("option", "words", "who"),
    [
        ("--account=nobody", "Invalid account or account/partition combination specified", OPERATOR),
        ("--partition=nowhere", "nowhere", OPERATOR),
        ("--qos=gold", "Invalid qos specification", OPERATOR),
        ("--mem=900G", "Requested node configuration is not available", "Ask for less memory"),
    ],
    ids=["account", "partition", "qos", "memory"],
)
def test_what_slurm_refuses_has_failed_in_its_words(site: Site, option: str, words: str, who: str) -> None:
    """A refusal is an end: SLURM's own words, and who does something about it. Nothing was started, though
    accounting may have a line of it."""
    site.levers.before_command("sbatch", f'set -- {option} "$@"')
    job = site.submit()
    ended = site.reaches(job, JobState.FAILED)
    assert ended.reason == "submission_refused"
    assert words in str(ended.message)
    assert who in str(ended.message)
    assert [attempt.started_at for attempt in ended.attempts] == [None]


def test_more_cores_than_any_node_has(site: Site) -> None:
    """SLURM refuses; some releases take the job and never start it, which users are told."""
    site.levers.before_command("sbatch", 'set -- --cpus-per-task=4000 "$@"')
    job = site.submit()
    seen = wait_for(lambda: _refused_or_stuck(site, job), "a refusal, or a job that is stuck")
    if seen.state is JobState.FAILED:
        assert seen.reason == "submission_refused"
        assert "Requested node configuration is not available" in str(seen.message)
        assert "Ask for less memory" in str(seen.message)
    else:
        assert "the site's operator must look at it" in str(seen.stuck)
        site.user.jobs.cancel(site.project, job)
        assert site.reaches(job, JobState.CANCELLED).started_at is None


def _refused_or_stuck(site: Site, job: str) -> JobDetail | None:
    seen = site.job(job)
    return seen if seen.state is JobState.FAILED or seen.stuck else None


def test_limit_of_a_qos_on_submissions(site: Site, cluster: Cluster) -> None:
    """A QOS that allows no more jobs refuses, and the words say that waiting helps."""
    set_limit = ["sacctmgr", "--immediate", "modify", "qos", "single", "set"]
    cluster.admin("slurmdbd", *set_limit, "MaxSubmitJobsPerUser=0")
    try:
        site.levers.before_command("sbatch", 'set -- --qos=single "$@"')
        ended = site.reaches(site.submit(), JobState.FAILED)
    finally:
        cluster.admin("slurmdbd", *set_limit, "MaxSubmitJobsPerUser=-1")
    assert ended.reason == "submission_refused"
    assert "Job violates accounting/QOS policy" in str(ended.message)
    assert "Wait until some jobs have ended" in str(ended.message)


def test_limit_of_a_qos_on_running_jobs(site: Site) -> None:
    """A job that has to wait for another of its QOS says so, and runs afterwards."""
    site.levers.before_command("sbatch", 'set -- --qos=single "$@"')
    site.levers.hold("run")
    first, second = site.submit(), site.submit()
    wait_for(lambda: "QOSMaxJobsPerUser" in (site.job(second).slurm_reason or ""), "SLURM's reason")
    waiting = site.job(second)
    assert (waiting.state, waiting.stuck) == (JobState.QUEUED, None)
    assert waiting.waiting
    site.levers.release("run")
    assert [len(site.succeeds(job).attempts) for job in (first, second)] == [1, 1]


def test_partition_that_is_down(site: Site) -> None:
    """A job in a partition that is down waits and says why; it can be cancelled."""
    site.levers.before_command("sbatch", 'set -- --partition=closed "$@"')
    job = site.submit()
    wait_for(lambda: site.job(job).slurm_reason == "PartitionDown", "SLURM's reason")
    assert site.job(job).waiting
    site.user.jobs.cancel(site.project, job)
    assert site.reaches(job, JobState.CANCELLED).started_at is None


def test_key_is_refused(site: Site, cluster: Cluster) -> None:
    """A login node that does not know the gateway's key any more: jobs wait, and the words say who adds the key."""
    with cluster.without("login", "sshd"):
        cluster.admin("login", "bash", "-c", "pkill sshd; mv /keys/authorized_keys /keys/authorized_keys.kept")
    try:
        job = site.submit()
        words = wait_for(lambda: _words(site, "does not accept"), "the refusal of the key")
        assert words.startswith("divbase@127.0.0.1")
        assert "does not accept the gateway's key." in words
        assert site.job(job).state in (JobState.ACCEPTED, JobState.SUBMITTING)
    finally:
        cluster.admin("login", "mv", "/keys/authorized_keys.kept", "/keys/authorized_keys")
    assert len(site.succeeds(job).attempts) == 1


def test_login_node_is_away(site: Site, cluster: Cluster) -> None:
    """Jobs that run are not touched; new ones are accepted and wait, and readiness says what is not reached."""
    site.levers.hold("run")
    running = site.submit()
    site.levers.wait_held("run")
    with cluster.without("login", "sshd"):
        cluster.admin("login", "bash", "-c", "pkill sshd; true")
        waiting = site.submit()
        words = wait_for(lambda: _words(site, "cannot be reached"), "the words of readiness")
        assert words.startswith("divbase@127.0.0.1")
        site.levers.release("run")
        wait_for(lambda: site.job(running).state is JobState.FINALIZING, "the report of the running job")
        assert site.job(waiting).state in (JobState.ACCEPTED, JobState.SUBMITTING)
    assert [len(site.succeeds(job).attempts) for job in (running, waiting)] == [1, 1]


def test_login_node_hangs(site: Site, cluster: Cluster) -> None:
    """An sshd that takes connections and says nothing costs the gateway a time limit and no job."""
    with cluster.without("login", "sshd"):
        cluster.admin("login", "bash", "-c", "pkill sshd; true")
    with frozen(cluster, "login", "sshd"):
        job = site.submit()
        wait_for(lambda: _words(site, "cannot be reached"), "the words of readiness")
    assert len(site.succeeds(job).attempts) == 1


def _words(site: Site, part: str) -> str | None:
    words = site.checks()["scheduler"]
    return words if part in words else None
