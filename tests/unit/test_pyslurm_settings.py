"""From settings to a scheduler through pyslurm, and what its operator reads where it cannot be loaded."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from divbase_gateway.bootstrap import SystemClock, build_scheduler, job_policy
from divbase_gateway.domain.errors import SchedulerUnavailable
from divbase_gateway.settings import InvalidSettings, SchedulerSettings, Settings
from divbase_gateway.slurm.pyslurm_scheduler import PyslurmScheduler

from tests.fakes.pyslurm_worker import FAKE
from tests.fakes.slurm_cluster import FakeCluster


def built(**scheduler: Any) -> PyslurmScheduler:
    made = build_scheduler(
        Settings(scheduler=SchedulerSettings(kind="pyslurm", work_dir="/w", **scheduler)), SystemClock()
    )
    assert isinstance(made, PyslurmScheduler)
    return made


def python_with_the_fake(folder: Path, cluster: FakeCluster) -> Path:
    """A program that is called as a Python is, and that has pyslurm."""
    program = folder / "python"
    program.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={FAKE} FAKE_SLURM={cluster.folder}\necho $SLURM_CONF > {folder}/conf\n"
        f'shift\nexec {sys.executable} -S "$@"\n'  # without -I, which would close the door to the fake
    )
    program.chmod(0o755)
    return program


def test_settings_reach_the_worker(tmp_path: Path) -> None:
    """Its Python and its slurm.conf."""
    cluster = FakeCluster(tmp_path / "cluster")
    program = python_with_the_fake(tmp_path, cluster)
    scheduler = built(pyslurm_python=str(program), slurm_conf="/etc/site/slurm.conf")
    try:
        assert scheduler.ping() == "slurm 24.11.5 scheduler, pyslurm 24.11.0: slurmctld of fake answers"
    finally:
        scheduler.close()
        cluster.close()
    assert (tmp_path / "conf").read_text() == "/etc/site/slurm.conf\n"


def test_python_of_the_gateway_is_the_default() -> None:
    """It has no pyslurm here; the message names it, and the hint the settings and what else can be done."""
    with pytest.raises(SchedulerUnavailable) as caught:
        built().ping()
    assert caught.value.message == f"pyslurm cannot be loaded by {sys.executable}: No module named 'pyslurm'."
    assert "`scheduler.pyslurm_python`" in (caught.value.hint or "")
    assert "another `scheduler.kind`" in (caught.value.hint or "")


def test_python_must_be_absolute() -> None:
    """No PATH decides which one it is."""
    with pytest.raises(InvalidSettings, match=r"scheduler\.pyslurm_python"):
        built(pyslurm_python="python3")


def test_lost_submission_waits_as_long_as_a_cluster_needs() -> None:
    """As through the other ways to SLURM."""
    settings = Settings(scheduler=SchedulerSettings(kind="pyslurm", work_dir="/w"))
    assert job_policy(settings).quiet_period == timedelta(minutes=5)
