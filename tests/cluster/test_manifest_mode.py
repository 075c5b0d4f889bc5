"""Jobs of `manifest` mode on the cluster: the nodes have no way to the gateway, only to S3.

One whose URLs expire before it begins is in test_faults_services.py, with others that take a minute.
"""

from __future__ import annotations

import time

import pytest

from tests.cluster.site import Site

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture
def site(s3_only: Site) -> Site:
    s3_only.levers.reset()
    return s3_only


def test_a_query_without_a_gateway(site: Site) -> None:
    """Guards: claimed, run, pushed and reported through S3 alone, in one attempt; SLURM is told no secret."""
    site.levers.hold("push")
    job = site.submit()
    site.levers.wait_held("push")
    slurm_id = site.slurm_id(job)
    told = site.cluster.admin("slurmctld", "scontrol", "--details", "show", "job", slurm_id)
    told += site.cluster.admin("slurmctld", "scontrol", "write", "batch_script", slurm_id, "-")
    site.levers.release("push")
    ended = site.succeeds(job)
    assert [each.outcome for each in ended.attempts] == ["succeeded"]
    assert {each.role for each in site.user.jobs.result(site.project, job)} == {
        "result",
        "index",
        "provenance",
        "log",
    }
    assert [word for word in ("X-Amz", site.s3.access_key, "http://") if word in told] == []
    assert "X-Amz" not in site.log
    assert "X-Amz" not in site.user.jobs.log(site.project, job).text


def test_the_store_is_away_at_the_push(site: Site) -> None:
    """Guards: the result waits on its node until S3 is back."""
    site.levers.hold("push")
    job = site.submit()
    site.levers.wait_held("push")
    with site.without_s3():
        site.levers.release("push")
        time.sleep(3)
    ended = site.succeeds(job)
    assert [each.outcome for each in ended.attempts] == ["succeeded"]
