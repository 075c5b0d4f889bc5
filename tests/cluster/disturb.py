"""Disturbances of the cluster that outlast no block: daemons that hang, other values in slurm.conf, a node that dies
with all that runs on it. It knows containers and SLURM, and nothing of the gateway."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.cluster.containers import Cluster, CommandFailed

_CONF = "/etc/slurm/slurm.conf"


@contextmanager
def frozen(cluster: Cluster, service: str, daemon: str) -> Iterator[None]:
    """With one daemon stopped where it is: it takes connections and does not answer."""
    cluster.admin(service, "pkill", "-STOP", "-x", daemon)
    try:
        yield
    finally:
        cluster.admin(service, "pkill", "-CONT", "-x", daemon)


@contextmanager
def configured(cluster: Cluster, **values: int | str) -> Iterator[None]:
    """With other values in slurmctld's slurm.conf, which it reads anew at the begin and at the end."""
    lines = "".join(f"{name}={value}\\n" for name, value in values.items())
    with cluster.without("slurmctld", "slurmctld"):
        cluster.admin("slurmctld", "bash", "-c", f"cp {_CONF} {_CONF}.kept; printf '{lines}' >> {_CONF}")
    try:
        yield
    finally:
        with cluster.without("slurmctld", "slurmctld"):
            cluster.admin("slurmctld", "mv", f"{_CONF}.kept", _CONF)


@contextmanager
def dead_node(cluster: Cluster, node: str) -> Iterator[None]:
    """With slurmd, its steps and all jobs of a node killed at once, as when its power goes. The administrator says that
    it is down, because slurmctld itself takes minutes to notice."""
    cluster.admin(node, "bash", "-c", "touch /run/divbase/hold; pkill -KILL -x slurmd; pkill -KILL slurmstepd; true")
    cluster.admin(node, "bash", "-c", "pkill -KILL -u divbase; rm -rf /tmp/divbase.*; true")
    state = ["scontrol", "update", f"nodename={node}"]
    cluster.admin("slurmctld", *state, "state=down", "reason=power")
    try:
        yield
    finally:
        cluster.admin(node, "rm", "-f", "/run/divbase/hold")
        with suppress(CommandFailed):  # slurmd was faster
            cluster.admin("slurmctld", *state, "state=resume")
        cluster.wait_healthy(node)


def wait_forgotten(cluster: Cluster, job_id: str, patience_s: float = 90.0) -> None:
    """Until slurmctld does not know the job any more."""
    deadline = time.monotonic() + patience_s
    while cluster.ssh(f"squeue --noheader --states=all --format=%i | grep -qx {job_id}").returncode == 0:
        assert time.monotonic() < deadline, f"slurmctld still remembers job {job_id}"
        time.sleep(0.5)
