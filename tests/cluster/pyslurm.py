"""The SLURM of the containers through pyslurm: the worker runs on the login node, where a release of pyslurm for that
SLURM must have been put; the project builds and ships none."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from divbase_gateway.ports import Scheduler
from divbase_gateway.slurm.pyslurm_process import WORKER, PyslurmProcess
from divbase_gateway.slurm.pyslurm_scheduler import PyslurmScheduler, worker_environment
from divbase_gateway.slurm.ssh import SshRunner

from tests.cluster.containers import Cluster
from tests.cluster.scheduler import SystemClock, empty_slots


def why_not(cluster: Cluster) -> str | None:
    """Why pyslurm cannot be used on the login node, or None."""
    argv = ["docker", "exec", cluster.container("login"), "python3", "-c", "import pyslurm"]
    answer = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    return f"no pyslurm on the login node: {answer.stderr.strip().splitlines()[-1]}" if answer.returncode else None


def worker_on(cluster: Cluster) -> PyslurmProcess:
    """The worker's own text, run on the login node by the user of the cluster."""
    argv = ["docker", "exec", "--interactive", "--user", cluster.user]
    variables = [f"--env={name}={value}" for name, value in worker_environment(None).items()]
    python = ["python3", "-I", "-X", "utf8", "-c", WORKER.read_text()]
    return PyslurmProcess([*argv, *variables, cluster.container("login"), *python], {"PATH": "/usr/bin:/bin"})


@contextmanager
def pyslurm_scheduler() -> Iterator[Scheduler]:
    """As `cluster_scheduler`; job directories still come over SSH."""

    def through_pyslurm(cluster: Cluster, runner: SshRunner, work_dir: PurePosixPath) -> PyslurmScheduler:
        return PyslurmScheduler(worker_on(cluster), runner, work_dir, "divbase", SystemClock())

    with empty_slots(through_pyslurm) as scheduler:
        yield scheduler
