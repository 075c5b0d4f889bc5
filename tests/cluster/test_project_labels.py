"""Whom a project's jobs are charged to, on a real SLURM: its own account where it has one, and a refusal that says
who must do what where SLURM does not know it."""

from __future__ import annotations

import pytest
from divbase_client.models import AllocationChange, JobState

from tests.cluster.site import Site
from tests.cluster.truth import check

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_an_unknown_account_is_refused_by_name_and_its_correction_lets_the_job_run(site: Site) -> None:
    """SLURM's words, the project's account, the command that changes it; then the same job runs and is charged."""
    with site.client() as admin:
        before = admin.projects.usage(site.project)
        admin.projects.change_allocation(site.project, AllocationChange(account="nobody", max_cores=1))
        refused = site.reaches(site.submit(), JobState.FAILED)
        assert refused.reason == "submission_refused"
        for words in (
            "Invalid account or account/partition combination specified",
            f"account 'nobody' (set for project {site.project})",
            "A site admin corrects account",
            "divbase projects allocation set",
        ):
            assert words in str(refused.message)
        admin.projects.change_allocation(site.project, AllocationChange(account="divbase", partition="slots"))
        admin.jobs.rerun(site.project, refused.id)
        site.succeeds(refused.id)
        used = admin.projects.usage(site.project)
        default = AllocationChange(account=None, partition=None, max_cores=None)
        admin.projects.change_allocation(site.project, default)
    number = site.slurm_id(refused.id)
    charged = site.cluster.run("sacct", "-X", "-n", "-P", "--format=Account,Partition", f"--jobs={number}").strip()
    assert charged == "divbase|slots"
    assert (used.jobs, used.open_jobs) == (before.jobs + 1, 0)
    check(site)
