"""Faults of SLURM's daemons and what its administrators do, while jobs wait, run and end. Each test ends in the same
check. The numbers are those of the design's list of faults."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import PurePosixPath

import pytest
from divbase_client.models import JobState
from divbase_gateway.domain.jobs import Evidence, Reason, decide
from divbase_gateway.ports import Sighting, SlurmRef
from divbase_gateway.slurm.ssh import Login, SshRunner

from tests.cluster.containers import Cluster
from tests.cluster.disturb import configured, dead_node, wait_forgotten
from tests.cluster.scheduler import SystemClock, over_ssh
from tests.cluster.site import Site, wait_for
from tests.cluster.truth import check, runs_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_fault_04_slurmdbd_is_away_while_a_job_ends(site: Site, cluster: Cluster) -> None:
    """slurmctld's word is enough while accounting is away."""
    site.levers.hold("push")
    job = site.submit()
    site.levers.wait_held("push")
    with cluster.without("slurmdbd", "slurmdbd"):
        site.levers.release("push")
        ended = site.succeeds(job)
    assert len(ended.attempts) == 1
    check(site)


def test_fault_05_slurmctld_is_away(site: Site, cluster: Cluster) -> None:
    """Looks still answer and say how old they are; new jobs are accepted and wait; nothing is lost."""
    site.levers.hold("run")
    running = site.submit()
    site.levers.wait_held("run")
    with cluster.without("slurmctld", "slurmctld"):
        away_since = datetime.now(UTC)
        waiting = site.submit()
        wait_for(lambda: "look.unavailable" in site.log, "a look that failed")
        seen = site.job(running)
        assert seen.state is JobState.RUNNING
        assert seen.observed_at is not None
        assert seen.observed_at < away_since
        assert site.job(waiting).state in (JobState.ACCEPTED, JobState.SUBMITTING)
        assert site.checks()["scheduler"].startswith(
            "slurmctld does not answer: Slurmctld(primary) at slurmctld is DOWN"
        )
    site.levers.release("run")
    assert [len(site.succeeds(job).attempts) for job in (running, waiting)] == [1, 1]
    check(site)


def test_fault_06_jobs_that_slurmctld_forgets_before_anybody_looks(site: Site, cluster: Cluster) -> None:
    """MinJobAge=2 and no look while a job runs: accounting tells its end, and while that is away, nobody guesses."""
    with configured(cluster, MinJobAge=2):
        site.levers.hold_command("squeue")
        job = site.submit()
        wait_forgotten(cluster, site.slurm_id(job))
        with cluster.without("slurmdbd", "slurmdbd"):
            site.levers.release_command("squeue")
            wait_for(lambda: "slurm.accounting_unavailable" in site.log, "a look without accounting")
            assert site.job(job).state is JobState.FINALIZING
        assert len(site.succeeds(job).attempts) == 1
    check(site)


def test_fault_07_job_ids_wrap(site: Site, cluster: Cluster) -> None:
    """A job gets the id of an older one that succeeded, and is cancelled: neither is taken for the other."""
    older = site.submit()
    number = int(str(site.succeeds(older).slurm_job_id))
    newest = max(int(run.job_id) for run in runs_of(site))
    with configured(cluster, MinJobAge=2, FirstJobId=number, MaxJobId=newest + 1):
        wait_forgotten(cluster, str(number))
        site.levers.hold("run")
        younger = site.submit()
        assert site.slurm_id(younger) == str(number)
        site.levers.wait_held("run")
        assert site.reaches(younger, JobState.RUNNING).state is JobState.RUNNING
        site.levers.hold_command("squeue")
        cluster.admin("slurmctld", "scancel", str(number))
        wait_forgotten(cluster, str(number))
        site.levers.release_command("squeue")
        assert site.reaches(younger, JobState.CANCELLED).reason == "cancelled"
    assert site.job(older).state is JobState.SUCCEEDED
    check(site)


def test_fault_08_slurmd_is_killed_mid_job(site: Site, cluster: Cluster) -> None:
    """A job outlives the slurmd of its node."""
    site.levers.hold("run")
    job = site.submit()
    site.levers.wait_held("run")
    node = str(site.job(job).node)
    with cluster.without(node, "slurmd"):
        site.levers.release("run")
        wait_for(lambda: (site.job(job).progress or "") and site.job(job).state is JobState.FINALIZING, "its report")
    assert len(site.succeeds(job).attempts) == 1
    check(site)


def test_fault_08_node_dies_mid_job(site: Site, cluster: Cluster) -> None:
    """A job whose node went away with everything on it gets another attempt, without anybody asking."""
    site.levers.hold("run")
    job = site.submit()
    site.levers.wait_held("run")
    with dead_node(cluster, str(site.job(job).node)):
        site.levers.release("run")
    ended = site.succeeds(job)
    assert [attempt.outcome for attempt in ended.attempts] == ["node_failed", "succeeded"]
    check(site)


def test_fault_09_admin_cancels(site: Site, cluster: Cluster) -> None:
    """A job that the administrator cancels is cancelled, and says by whom; no attempt follows."""
    site.levers.hold("run")
    job = site.submit()
    site.levers.wait_held("run")
    cluster.admin("slurmctld", "scancel", site.slurm_id(job))
    ended = site.reaches(job, JobState.CANCELLED)
    assert ended.message == "The job was cancelled by the scheduler's administrator (uid 0)."
    assert len(ended.attempts) == 1
    check(site)


def test_fault_09_admin_holds_and_releases(site: Site, cluster: Cluster) -> None:
    """A job that the administrator holds says so, and runs when it is let go."""
    site.levers.before_command("sbatch", 'set -- --hold "$@"')
    job = site.submit()
    number = site.slurm_id(job)
    cluster.admin("slurmctld", "scontrol", "hold", number)
    wait_for(lambda: "administrator" in (site.job(job).stuck or ""), "the mark of a job that is stuck")
    assert site.job(job).state is JobState.QUEUED
    cluster.admin("slurmctld", "scontrol", "release", number)
    ended = site.succeeds(job)
    assert (ended.stuck, len(ended.attempts)) == (None, 1)
    check(site)


def test_fault_09_admin_requeues(site: Site, cluster: Cluster) -> None:
    """A job that the administrator puts back into the queue while it runs comes to a true end by another attempt."""
    site.levers.hold("run")
    job = site.submit()
    site.levers.wait_held("run")
    number = site.slurm_id(job)
    cluster.admin("slurmctld", "scontrol", "update", f"jobid={number}", "requeue=1")
    cluster.admin("slurmctld", "scontrol", "requeue", number)
    site.levers.release("run")
    ended = site.succeeds(job)
    assert ended.attempts[-1].outcome == "succeeded"
    check(site)


def test_fault_10_child_is_killed_and_its_parent_ends_with_0(site: Site) -> None:
    """What the kernel does when memory runs out, behind a bcftools that is a wrapper and hides it: half a result is no
    result."""
    site.levers.stand_before_bcftools(
        '[ "$1" = view ] || exec /usr/bin/bcftools "$@"\n/usr/bin/bcftools "$@" & kill -KILL $!; wait; exit 0'
    )
    ended = site.reaches(site.submit(), JobState.FAILED)
    assert ended.reason == "bcftools_failed"
    check(site)


def test_fault_10_bcftools_is_killed(site: Site) -> None:
    """A process that the kernel kills is called short of memory."""
    site.levers.stand_before_bcftools('[ "$1" = view ] && kill -KILL $$; exec /usr/bin/bcftools "$@"')
    ended = site.reaches(site.submit(), JobState.FAILED)
    assert ended.reason == "out_of_memory"
    check(site)


def test_fault_10_job_takes_more_memory_than_it_asked_for(site: Site) -> None:
    """SLURM kills the whole job, which can report nothing any more: the reason is named, so that more can be asked."""
    hungry = 'import time; x = b"1" * 1600_000_000; time.sleep(60)'
    site.levers.before("run", f"/usr/bin/python3 -c '{hungry}'")
    ended = site.reaches(site.submit(), JobState.FAILED)
    assert ended.reason == "out_of_memory", ended.message
    check(site)


def test_fault_12_array_with_one_failed_task(cluster: Cluster) -> None:
    """An array is a failure where one of its tasks is, for whoever looks: by squeue, by accounting, by name."""
    name = f"divbase-array-{secrets.token_hex(4)}"
    submitted = datetime.now(UTC).replace(microsecond=0)
    script = "--wrap=[ $SLURM_ARRAY_TASK_ID != 1 ]"
    number = cluster.run("sbatch", "--parsable", "--array=0-2", f"--job-name={name}", "--mem=64", script).strip()
    login = Login(cluster.host, cluster.user, cluster.known_hosts, cluster.port, cluster.key_file)
    runner = SshRunner(login)
    scheduler = over_ssh(runner, PurePosixPath("/shared/divbase"), SystemClock())
    ref = SlurmRef("divbase", number, name, submitted)
    try:
        sighting = wait_for(lambda: _ended(scheduler.observe([ref]).seen.get(ref)), "the end of the array")
        (found,) = scheduler.find(name, submitted)
    finally:
        runner.close()
    assert (sighting.state, sighting.exit_code) == ("FAILED", 1)
    assert (found.job_id, found.name) == (number, name)
    verdict = decide(Evidence(sighting.state, sighting.exit_code, sighting.signal))
    assert verdict.reason is Reason.SCRIPT_FAILED


def _ended(sighting: Sighting | None) -> Sighting | None:
    return sighting if sighting is not None and sighting.ended_at is not None else None
