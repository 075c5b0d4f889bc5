"""Queries that are spread over several jobs of SLURM: the jobs of the shards, and the one that joins what they made.
Each test ends in the same check as those of the faults."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from divbase_client.models import JobDetail, JobState, Query

from tests.cluster.conftest import MakeSite
from tests.cluster.containers import Cluster
from tests.cluster.disturb import dead_node
from tests.cluster.site import COMMAND, FILE, Site, wait_for
from tests.cluster.truth import audit, check
from tests.e2e.conftest import MakeStack
from tests.e2e.conftest import make_stack as make_stack  # a stack on this machine, for the bytes that it gives
from tests.e2e.stack import Project, result_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SPREAD = {"JOBS__SPREAD_AFTER_S": "2"}


@pytest.fixture(scope="module")
def spread_site(make_site: MakeSite) -> Site:
    """One that spreads whatever is expected to take longer than two seconds."""
    return make_site(settings=SPREAD)


@pytest.fixture
def spreading(spread_site: Site) -> Site:
    spread_site.levers.reset()
    spread_site.gateway.turn_page()
    return spread_site


def shards_are(site: Site, job: str, *states: JobState) -> Callable[[], JobDetail | None]:
    def look() -> JobDetail | None:
        seen = site.job(job)
        return seen if seen.shards and all(shard.state in states for shard in seen.shards) else None

    return look


def submit_stored(site: Site) -> str:
    """A query whose result is not compressed: the builds of bcftools here and there compress into other bytes."""
    query = Query(all_samples=True, command=COMMAND, level=0)
    return site.user.jobs.submit(site.project, query, fresh=True).id


def by_embedded_scheduler(make_stack: MakeStack, site: Site) -> str:
    """The SHA-256 of the same query's result on this machine, by one job."""
    project = Project.create(make_stack("embedded"), "sparrows", [site.folder / FILE])
    alone = project.succeeds(project.submit(COMMAND, level=0))
    assert alone.shards == []
    return result_of(alone)


def test_fault_12_one_shard_is_killed_and_rerun_alone(spreading: Site, cluster: Cluster, make_stack: MakeStack) -> None:
    """The others go on, the query says which it was, and a rerun runs that one alone; then all are joined, to the bytes
    that one job of the embedded scheduler gives."""
    site = spreading
    site.levers.hold("run")
    job = submit_stored(site)
    assert site.job(job).state is JobState.SPREAD
    running = wait_for(shards_are(site, job, JobState.RUNNING), "all shards at work")
    count = len(running.shards)
    assert count >= 2
    victim = running.shards[1]
    array, _, task = str(victim.slurm_job_id).partition("_")
    assert (task, {str(shard.slurm_job_id).partition("_")[0] for shard in running.shards}) == ("2", {array})
    cluster.admin("slurmctld", "scancel", "--signal=KILL", "--full", str(victim.slurm_job_id))
    wait_for(lambda: site.job(job).shards[1].state.is_end, "the end of the killed shard")
    site.levers.release("run")
    ended = site.reaches(job, JobState.FAILED, JobState.CANCELLED)
    assert f"{count - 1} of {count} shards have succeeded" in (ended.message or "")
    assert (ended.message or "").startswith(f"Shard 2 of {count} (chr1:")
    assert [shard.state is JobState.SUCCEEDED for shard in ended.shards] == [n != 2 for n in range(1, count + 1)]
    site.user.jobs.rerun(site.project, job)
    joined = site.succeeds(job)
    assert [shard.attempt for shard in joined.shards] == [2 if n == 2 else 1 for n in range(1, count + 1)]
    assert len(joined.attempts) == 1
    assert joined.shards[1].slurm_job_id != victim.slurm_job_id
    check(site)
    assert result_of(joined) == by_embedded_scheduler(make_stack, site)


def test_a_node_under_a_shard_dies(spreading: Site, cluster: Cluster) -> None:
    """That shard gets another attempt without anybody asking, the others keep their only one."""
    site = spreading
    site.levers.hold("run")
    job = site.submit()
    running = wait_for(shards_are(site, job, JobState.RUNNING), "all shards at work")
    node = str(running.shards[0].node)
    there = [shard.number for shard in running.shards if shard.node == node]
    with dead_node(cluster, node):
        site.levers.release("run")
    joined = site.succeeds(job, 300.0)
    assert [shard.number for shard in joined.shards if shard.attempt == 2] == there
    check(site)


def test_the_admin_cancels_a_shard(spreading: Site, cluster: Cluster) -> None:
    """The query is cancelled when the others are done, and says by whom; a rerun is of that shard."""
    site = spreading
    site.levers.hold("run")
    job = site.submit()
    running = wait_for(shards_are(site, job, JobState.RUNNING), "all shards at work")
    cluster.admin("slurmctld", "scancel", str(running.shards[0].slurm_job_id))
    wait_for(lambda: site.job(job).shards[0].state is JobState.CANCELLED, "the end of the cancelled shard")
    site.levers.release("run")
    ended = site.reaches(job, JobState.CANCELLED)
    assert "was cancelled by the scheduler's administrator (uid 0)" in (ended.message or "")
    site.user.jobs.rerun(site.project, job)
    joined = site.succeeds(job)
    assert [shard.attempt for shard in joined.shards] == [2, *[1] * (len(joined.shards) - 1)]
    check(site)


def test_a_user_cancels_all(spreading: Site) -> None:
    """Every shard that runs or waits is ended, and the query with the last of them."""
    site = spreading
    site.levers.hold("run")
    job = site.submit()
    wait_for(shards_are(site, job, JobState.RUNNING, JobState.QUEUED), "shards at SLURM")
    site.user.jobs.cancel(site.project, job)
    ended = site.reaches(job, JobState.CANCELLED)
    site.levers.release("run")
    assert all(shard.state is JobState.CANCELLED for shard in ended.shards)
    check(site)
    audit(site)
