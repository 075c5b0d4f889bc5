"""The gateway's pyslurm worker over the pyslurm that is none: the same program and protocol, a cluster in a folder."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath

from divbase_gateway.ports import Clock
from divbase_gateway.slurm.pyslurm_process import WORKER, PyslurmProcess
from divbase_gateway.slurm.pyslurm_scheduler import PyslurmScheduler
from divbase_gateway.slurm.runners import LocalRunner

from tests.fakes.slurm_cluster import FakeCluster

FAKE = Path(__file__).with_name("pyslurm")


def worker_over(cluster: FakeCluster, start_s: float = 30.0) -> PyslurmProcess:
    """The real worker program, with the fake on its path."""
    environment = {"PYTHONPATH": str(FAKE), "FAKE_SLURM": str(cluster.folder)}
    return PyslurmProcess([sys.executable, "-S", str(WORKER)], environment, start_s=start_s, first_pause_s=0.05)


def scheduler_over(cluster: FakeCluster, clock: Clock, limit_s: float = 30.0) -> PyslurmScheduler:
    work_dir = PurePosixPath(cluster.work_dir)
    return PyslurmScheduler(worker_over(cluster), LocalRunner(), work_dir, "fake", clock, limit_s=limit_s)
