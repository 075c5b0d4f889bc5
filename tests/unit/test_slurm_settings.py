"""From settings to a scheduler on SLURM: what is missing is named, and what is chosen reaches the jobs and the tick."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from divbase_gateway.bootstrap import SystemClock, build_scheduler, job_policy
from divbase_gateway.domain.allocations import Labels
from divbase_gateway.services.policy import NodeCache
from divbase_gateway.settings import InvalidSettings, JobSettings, SchedulerSettings, Settings
from divbase_gateway.slurm.scheduler import CliScheduler
from pydantic import ValidationError

from tests.fakes.slurm_cluster import FakeCluster
from tests.fakes.ssh_server import FakeSshd


def settings(**scheduler: Any) -> Settings:
    return Settings(scheduler=SchedulerSettings(**scheduler))


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"kind": "slurm-local"}, "scheduler.work_dir"),
        ({"kind": "slurm-ssh", "work_dir": "/w"}, "scheduler.ssh_host"),
        ({"kind": "slurm-ssh", "work_dir": "/w", "ssh_host": "h"}, "scheduler.ssh_user"),
        ({"kind": "slurm-ssh", "work_dir": "/w", "ssh_host": "h", "ssh_user": "u"}, "scheduler.ssh_known_hosts"),
        ({"kind": "slurm-local", "work_dir": "relative"}, "absolute"),
        ({"kind": "slurm-local", "work_dir": "/w", "bin_dir": "bin"}, "absolute"),
    ],
)
def test_what_is_missing_is_named(given: dict[str, Any], missing: str) -> None:
    """There is no unpinned host and no guessed folder."""
    with pytest.raises(InvalidSettings, match=missing):
        build_scheduler(settings(**given), SystemClock())


@pytest.mark.parametrize("name", ["account", "partition", "qos", "wckey", "cluster"])
def test_label_that_no_sbatch_line_can_carry_is_refused(name: str) -> None:
    """Before any job is."""
    with pytest.raises(ValidationError, match=name):
        settings(**{name: "two words"})


def test_labels_reach_the_jobs() -> None:
    """And a lost submission waits as long as a cluster needs, not as long as a folder."""
    policy = job_policy(settings(kind="slurm-local", account="a", partition="p", qos="q", wckey="w"))
    assert policy.labels == Labels("a", "p", "q", "w")
    assert policy.quiet_period == timedelta(minutes=5)
    assert job_policy(settings()).quiet_period == timedelta(seconds=2)


def test_settings_reach_the_cluster_through_ssh(tmp_path: Path) -> None:
    """Host, port, key, pinned host key and folder of the commands, all from settings."""
    cluster, sshd = FakeCluster(tmp_path / "cluster"), FakeSshd(tmp_path / "sshd")
    sshd.start()
    login = sshd.login()
    scheduler = build_scheduler(
        settings(
            kind="slurm-ssh",
            work_dir=str(cluster.work_dir),
            bin_dir=str(cluster.bin_dir),
            ssh_host=login.host,
            ssh_port=login.port,
            ssh_user=login.user,
            ssh_key_file=login.key_file,
            ssh_known_hosts=login.known_hosts,
        ),
        SystemClock(),
    )
    assert isinstance(scheduler, CliScheduler)
    try:
        assert scheduler.ping().startswith("slurm 24.11.5 scheduler")
    finally:
        scheduler.close()
        sshd.stop()
        cluster.close()


def test_the_cache_of_the_nodes() -> None:
    """It is off unless its folder is named, which every node must understand alike."""
    assert job_policy(Settings()).cache is None
    chosen = Settings(jobs=JobSettings.model_validate({"cache_dir": "/scratch/divbase", "cache_gb": 3}))
    assert job_policy(chosen).cache == NodeCache("/scratch/divbase", 3_000_000_000)
    with pytest.raises(InvalidSettings, match=r"jobs.cache_dir. must be an absolute path, and 'scratch'"):
        job_policy(Settings(jobs=JobSettings.model_validate({"cache_dir": "scratch"})))
