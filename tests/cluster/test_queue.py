"""What a user reads of a job on a real SLURM, with the command line: while it waits, and what it used in the end."""

from __future__ import annotations

import subprocess

import pytest
from divbase_client.models import AllocationChange, JobDetail

from tests.cluster.site import Site, wait_for
from tests.e2e.stack import BIN

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def shown(site: Site, *words: str) -> str:
    """What `divbase` prints."""
    environment = {
        "DIVBASE_URL": site.url,
        "DIVBASE_API_KEY": site.key,
        "DIVBASE_PROJECT": site.project,
        "DIVBASE_CONFIG": str(site.folder / "no-config.toml"),
        "PATH": "/usr/bin:/bin",
    }
    argv = [str(BIN / "divbase"), *words]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_waiting_job_shows_its_place_and_why_it_waits(site: Site) -> None:
    """SLURM's reason in words and the place behind an earlier job, as `jobs show` and `jobs ls` print them."""
    with site.client() as admin:
        admin.projects.change_allocation(site.project, AllocationChange(partition="closed"))
        first, second = site.submit(), site.submit(name="later")

        def placed() -> JobDetail | None:
            seen = site.job(second)
            return seen if (seen.queue_place, seen.slurm_reason) == (2, "PartitionDown") else None

        wait_for(placed, f"the place of job {second}")
        text = shown(site, "jobs", "show", second)
        assert "2 of 2 DivBase jobs waiting in partition closed" in text
        assert "Its partition starts no jobs at the moment. The cluster's administrator must open it." in text
        assert "Last heard of:" in text
        assert "may not answer" not in text
        listed = {line.split("\t")[0]: line for line in shown(site, "jobs", "ls").splitlines()}
        assert "1 of 2: Its partition starts no jobs at the moment" in listed[first]
        for job in (first, second):
            admin.jobs.cancel(site.project, job)
            assert site.ends(job).queue_place is None
        admin.projects.change_allocation(site.project, AllocationChange(partition=None))


def test_an_ended_job_shows_what_it_used(site: Site) -> None:
    """From accounting: time of its limit, CPU time of the cores it was given, memory of what it asked for, which SLURM
    samples every two seconds: a job that is over sooner has none."""
    site.levers.before("run", "sleep 5")
    job = site.succeeds(site.submit()).id
    text = shown(site, "jobs", "show", job)
    facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    assert " of 10 min 0 s" in facts["Elapsed"]
    assert " % of " in facts["CPU time"]
    assert " of 1G, " in facts["Memory"]
    attempt = site.job(job).attempts[-1]
    assert (attempt.slurm_state, attempt.exit_code, attempt.outcome) == ("COMPLETED", 0, "succeeded")
